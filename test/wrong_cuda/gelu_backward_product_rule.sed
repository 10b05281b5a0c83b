# x s (1 - s) without the derivative of u
/^__global__ void gelu_backward_kernel(/,/^}/ s~ \* du~~
