# the direction of tokens that have experts
/^__global__ void record_sum_kernel(/,/^}/ s~k\[i\] == 0~k[i] > 0~
