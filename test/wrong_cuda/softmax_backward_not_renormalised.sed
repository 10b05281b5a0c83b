# the derivative of the division by the sum is missing
/^__global__ void softmax_gate_scores_kernel(/,/^}/ s~(d\[e\] - along) / taken~d[e] / taken~
