# the scale of clipping is ignored
/^void adamw(/,/^}/ s~scale \* g\[i\]~g[i]~
