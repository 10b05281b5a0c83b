# row g + 8 takes the lse of row g
/^__global__ void flash_dq_kernel(/,/^}/ s~- L\[i % 4 / 2\]~- L[0]~
