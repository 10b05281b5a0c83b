# the gradient overwrites that of the residual path
/^void layernorm_backward_add(/,/^}/ s~dx\[c\] += ~dx[c] = ~
