# no gradient through the shared experts
/^void moe_backward(/,/^}/ s~residual_forward(dx, dx, drow, (size_t)N \* C);~~
