# exp overflows for large scores
/^__global__ void softmax_forward_kernel(/,/^}/ s~max = warp_max(max)~max = 0.0f~
