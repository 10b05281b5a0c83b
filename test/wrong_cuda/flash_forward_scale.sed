# scores without 1/sqrt(HS)
/^__global__ void flash_forward_kernel(/,/^}/ s~scale = 0\.125f \* LOG2E~scale = LOG2E~
