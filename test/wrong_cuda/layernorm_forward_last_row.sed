# the last row is dropped
/^__global__ void layernorm_forward_kernel(/,/^}/ s~i >= N~i >= N - 1~
