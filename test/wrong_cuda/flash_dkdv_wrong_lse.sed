# the lse of the first query of a step for all
/^__global__ void flash_dkdv_kernel(/,/^}/ s~L\[j % 2\]\[col\]~L[j % 2][n]~
