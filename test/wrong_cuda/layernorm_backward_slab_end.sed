# the last row of each whole slab is lost
/^__global__ void layernorm_backward_weights_kernel(/,/^}/ s~(int)(blockIdx\.y + 1) \* SLAB~(int)(blockIdx.y + 1) * SLAB - 1~
