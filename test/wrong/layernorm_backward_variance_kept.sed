# what the variance takes away is not subtracted
/^void layernorm_backward_add(/,/^}/ s~ - (x\[c\] - mean\[i\]) \* rstd\[i\] \* b)~)~
