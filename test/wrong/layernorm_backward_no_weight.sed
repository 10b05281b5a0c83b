# the weight is forgotten on the direct path
/^void layernorm_backward_add(/,/^}/ s~dx\[c\] += (d\[c\] \* weight\[c\]~dx[c] += (d[c]~
