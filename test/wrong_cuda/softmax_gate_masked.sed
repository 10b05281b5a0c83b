# experts that are not active are part of the softmax
/^__global__ void softmax_gate_forward_kernel(/,/^}/ s~p\[e\] = mask\[e\] ? expf(p\[e\] - max) : 0\.0f~p[e] = expf(p[e] - max)~
