# rows g and g + 8 change places in the mask
/^__global__ void flash_dkdv_kernel(/,/^}/ s~i % 4 / 2 \* 8, query~(1 - i % 4 / 2) * 8, query~
