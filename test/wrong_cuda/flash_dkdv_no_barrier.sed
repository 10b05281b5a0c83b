# a tile is read before all threads have fetched it
/^__global__ void flash_dkdv_kernel(/,/^}/ s~__syncthreads();~~
