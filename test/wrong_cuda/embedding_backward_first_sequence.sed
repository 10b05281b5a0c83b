# dwpe only of the first sequence
/^__global__ void embedding_backward_wpe_kernel(/,/^}/ s~b < B~b < 1~
