# the derivative of softmax without its sum
/^__global__ void softmax_gate_scores_kernel(/,/^}/ s~p\[e\] \* (d\[e\] - sum)~p[e] * d[e]~
