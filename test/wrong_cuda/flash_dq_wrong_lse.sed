# row g + 8 takes the lse of row g
/^__global__ void flash_dq_kernel(/,/^}/ s~- L\[row\]~- L[0]~
