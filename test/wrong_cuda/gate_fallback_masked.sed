# the fallback takes experts that are not active
/^__global__ void gate_forward_kernel(/,/^}/ s~if (mask\[e\] && (best~if ((best~
