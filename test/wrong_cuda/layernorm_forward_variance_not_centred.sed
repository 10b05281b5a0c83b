# the mean is not subtracted in the variance
/^__global__ void layernorm_forward_kernel(/,/^}/ s~value(x\[row + c\]) - m; var~value(x[row + c]); var~
