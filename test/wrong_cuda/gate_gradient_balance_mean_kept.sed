# balance without its mean
/^__global__ void gate_gradient_kernel(/,/^}/ s~(ce\.of\[e\] - mean_ce)~ce.of[e]~
