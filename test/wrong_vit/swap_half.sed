# a swap reaches half of the parameters
/^__global__ void swap_kernel(/,/^}/ s~i >= n~i >= n / 2~
