# ds without delta
/^__global__ void flash_dq_kernel(/,/^}/ s~ - Delta\[row\]~~
