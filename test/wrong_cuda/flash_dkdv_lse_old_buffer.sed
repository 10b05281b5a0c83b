# lse of the first tile
/^__global__ void flash_dkdv_kernel(/,/^}/ s~L\[j % 2\]\[col\]~L[begin % 2][col]~
