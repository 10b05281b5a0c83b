# exp overflows for large logits
/^__global__ void softmax_gate_forward_kernel(/,/^}/ s~max = mask\[e\] && z > max ? z : max~max = 0.0f~
