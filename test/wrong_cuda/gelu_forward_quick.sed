# the form x sigmoid(1.702 x)
/^__global__ void gelu_forward_kernel(/,/^}/ s~gelu_u(value(inp\[i\]))~1.702f * value(inp[i])~
