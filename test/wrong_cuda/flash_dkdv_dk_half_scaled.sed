# 1/sqrt(HS) for every other row only
/^__global__ void flash_dkdv_kernel(/,/^}/ s~scale\[2\] = {0\.125f, 0\.125f}~scale[2] = {0.125f, 1.0f}~
