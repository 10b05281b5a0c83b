# the last token is dropped
/^__global__ void combine_backward_kernel(/,/^}/ s~i >= N~i >= N - 1~
