# v is always read from the first buffer
/^__global__ void flash_forward_kernel(/,/^}/ s~V\[j % 2\] + n~V[0] + n~
