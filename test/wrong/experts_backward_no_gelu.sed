# the GELU is left out
/^void experts_backward(/,/^}/ s~gelu_backward(dpre + r \* H, dpre + r \* H, pre + r \* H, (size_t)n \* H);~~
