# the first moment is not corrected for its start at zero
/^void adamw(/,/^}/ s~m\[i\] / correction1~m[i]~
