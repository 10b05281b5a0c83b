# a tile is read before all threads have fetched it
/^__global__ void flash_forward_kernel(/,/^}/ s~__syncthreads();~~
