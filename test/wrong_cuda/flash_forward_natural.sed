# 2 to the score, not e
/^__global__ void flash_forward_kernel(/,/^}/ s~scale = 0\.125f \* LOG2E~scale = 0.125f~
