# b is subtracted
/^__global__ void residual_forward_kernel(/,/^}/ s~+ value(b~- value(b~
