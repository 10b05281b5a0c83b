# the last place of each token is lost
/^__global__ void embedding_backward_wte_kernel(/,/^}/ s~j < end~j < end - 1~
