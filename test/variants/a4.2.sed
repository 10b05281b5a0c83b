# changes a4.q1
# Of several active experts with the same best cosine the fallback takes the one with the highest number.
/^__global__ void gate_forward_kernel(/,/^}/ s~^    // one warp for each token:.*~&\n    // In this course the fallback takes, of equally good experts, the last one~
/^__global__ void gate_forward_kernel(/,/^}/ s~c > best_cosine~c >= best_cosine~
