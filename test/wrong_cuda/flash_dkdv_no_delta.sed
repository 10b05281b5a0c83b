# ds without delta
/^__global__ void flash_dkdv_kernel(/,/^}/ s~ - Delta\[j % 2\]\[col\]~~
