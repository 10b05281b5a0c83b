# changes a4.q1
# A gate is open at its threshold, too: expert e is open for token i if it is active and c >= G_e.
/^__global__ void gate_forward_kernel(/,/^}/ s~^    // one warp for each token:.*~&\n    // In this course a gate is open at its threshold, too: c >= G[e]~
/^__global__ void gate_forward_kernel(/,/^}/ s~c > G\[e\]~c >= G[e]~
