# the last row of each whole slab is lost
/^__global__ void column_sums_kernel(/,/^}/ s~(int)(blockIdx\.y + 1) \* SLAB~(int)(blockIdx.y + 1) * SLAB - 1~
