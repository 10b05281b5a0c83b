# the mean of dnorm is not subtracted
/^__global__ void layernorm_backward_kernel(/,/^}/ s~ - a - ~ - ~
