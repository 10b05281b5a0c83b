# the sum is added, not subtracted
/^__global__ void softmax_backward_kernel(/,/^}/ s~- sum)~+ sum)~
