# k is always read from the first buffer
/^__global__ void flash_dq_kernel(/,/^}/ s~add_scores(s, a, K\[j % 2\]~add_scores(s, a, K[0]~
