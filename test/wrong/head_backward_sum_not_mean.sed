# the gradient is that of the sum of losses
/^void head_backward(/,/^}/ s~scale / (float)N~scale~
