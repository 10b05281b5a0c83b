# top-k weights are not divided by their sum
/^__global__ void softmax_gate_forward_kernel(/,/^}/ s~renormalise && e < E~e < 0~
