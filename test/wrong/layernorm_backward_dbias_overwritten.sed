# the gradient of the bias is that of the last token only
/^void layernorm_backward_add(/,/^}/ s~dbias\[c\] += d~dbias[c] = d~
