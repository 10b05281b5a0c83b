# dweight of the input that is not divided by its deviation
/^__global__ void layernorm_backward_weights_kernel(/,/^}/ s~ \* rstd\[i\];~;~
