# the gradient of the bias stops at the first 64 columns
/^void matmul_backward(/,/^}/ s~o < OC && o < o0 + 64~o < OC \&\& o < 64~
