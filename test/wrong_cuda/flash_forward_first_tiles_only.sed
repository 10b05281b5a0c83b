# the full attention stops where the causal one does
/^__global__ void flash_forward_kernel(/,/^}/ s~causal ? block + 1 : blocks, first~block + 1, first~
