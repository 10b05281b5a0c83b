# the gradient of the bias is that of the last row only
/^void matmul_backward(/,/^}/ s~dbias\[o0 + o\] += ~dbias[o0 + o] = ~
