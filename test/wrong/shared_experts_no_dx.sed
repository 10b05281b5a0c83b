# the gradient through the shared experts does not reach x
/^void moe_backward(/,/^}/ s~residual_forward(dx, dx, drow, (size_t)N \* C);~~
