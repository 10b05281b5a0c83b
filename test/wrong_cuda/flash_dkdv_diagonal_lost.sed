# queries of the same block do not count
/^__global__ void flash_dkdv_kernel(/,/^}/ s~begin = causal ? block : 0~begin = causal ? min(block + 1, blocks - 1) : 0~
