# queries behind the end count
/^__global__ void flash_dkdv_kernel(/,/^}/ s~(j == begin || j == blocks - 1) &&~j == begin \&\&~
