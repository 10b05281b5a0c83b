# the gradient through the shared experts replaces that through the routed ones
/^void moe_backward(/,/^}/ s~residual_forward(dx, dx, drow~residual_forward(dx, drow, drow~
