# half of the weights do not reach the copy for kernels
/^__global__ void convert_kernel(/,/^}/ s~i < n~i < n / 2~
