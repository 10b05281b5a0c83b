# experts that are not active open
/^__global__ void gate_forward_kernel(/,/^}/ s~is_open = mask\[e\] && ~is_open = ~
