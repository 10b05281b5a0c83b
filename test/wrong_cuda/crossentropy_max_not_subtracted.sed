# exp overflows for large logits
/^__global__ void crossentropy_kernel(/,/^}/ s~max = block_max(max)~max = 0.0f~
