# the first head is read by all
/^__global__ void flash_forward_kernel(/,/^}/ s~qkv + head_at(head,~qkv + head_at(0,~
