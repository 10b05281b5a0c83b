# the gradient of the weight overwrites what was there instead of being added
/^void matmul_backward(/,/^}/ s~OC, C, N, 1\.0f~OC, C, N, 0.0f~
