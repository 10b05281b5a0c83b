# the gradient of a row is not weighted
/^__global__ void combine_backward_kernel(/,/^}/ s~w \* d~d~
