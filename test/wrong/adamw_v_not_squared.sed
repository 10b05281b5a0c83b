# the second moment is one of |g|
/^void adamw(/,/^}/ s~gi \* gi~fabsf(gi)~
