# the gradient of the residual path is overwritten
/^__global__ void layernorm_backward_kernel(/,/^}/ s~value(dinp\[row + c\]) + d~d~
