# the gradient of the bias stops at the first 64 columns
/^void matmul_backward(/,/^}/ s~o0 < OC; o0~o0 < 64; o0~
