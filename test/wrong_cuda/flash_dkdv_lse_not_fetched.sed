# lse and delta change places
/^__global__ void flash_dkdv_kernel(/,/^}/ s~lse + (size_t)head~delta + (size_t)head~
