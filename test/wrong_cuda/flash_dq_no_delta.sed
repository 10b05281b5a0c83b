# ds without delta
/^__global__ void flash_dq_kernel(/,/^}/ s~ - Delta\[i % 4 / 2\]~~
