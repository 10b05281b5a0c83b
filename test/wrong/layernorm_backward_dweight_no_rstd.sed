# the gradient of the weight is taken with the centred input, not the normalised one
/^void layernorm_backward_add(/,/^}/ s~C + c\] - mean\[i\]) \* rstd\[i\];~C + c] - mean[i]);~
