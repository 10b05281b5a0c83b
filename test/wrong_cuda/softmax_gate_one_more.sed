# K + 1 experts
/^__global__ void softmax_gate_forward_kernel(/,/^}/ s~n < K~n <= K~
