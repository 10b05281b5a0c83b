# the gradient of the input is added to what was there instead of overwriting it
/^void matmul_backward(/,/^}/ s~N, C, OC, 0\.0f~N, C, OC, 1.0f~
