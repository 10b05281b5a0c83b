# the square of the length
/^__global__ void row_norms_kernel(/,/^}/ s~sqrtf(sum)~sum~
