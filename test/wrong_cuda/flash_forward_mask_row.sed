# the mask takes row g + 8 for row g
/^__global__ void flash_forward_kernel(/,/^}/ s~i % 4 / 2 \* 8, key~8, key~
