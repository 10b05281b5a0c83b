# dk without 1/sqrt(HS)
/^__global__ void flash_dkdv_kernel(/,/^}/ s~scale\[2\] = {0\.125f, 0\.125f}~scale[2] = {1.0f, 1.0f}~
