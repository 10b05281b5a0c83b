# the largest score goes into lse without 1/sqrt(HS)
/^__global__ void flash_forward_kernel(/,/^}/ s~0\.125f \* m\[i\] + logf~m[i] + logf~
