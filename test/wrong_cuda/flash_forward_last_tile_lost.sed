# a block does not see its own keys
/^__global__ void flash_forward_kernel(/,/^}/ s~causal ? block + 1 : blocks, first~causal ? (block > 0 ? block : 1) : blocks, first~
