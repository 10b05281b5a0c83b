# a gate opens at equality
/^__global__ void gate_forward_kernel(/,/^}/ s~c > G\[e\]~c >= G[e]~
