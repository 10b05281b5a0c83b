# what the mean takes away is not subtracted
/^void layernorm_backward_add(/,/^}/ s~weight\[c\] - a - ~weight[c] - ~
