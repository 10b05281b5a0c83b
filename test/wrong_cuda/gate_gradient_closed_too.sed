# closed gates get a gradient
/^__global__ void gate_gradient_kernel(/,/^}/ s~if (!o\[e\]) { continue; }~~
