# positions learn from the first picture alone
/^__global__ void tokens_backward_kernel(/,/^}/ s~b < B; b++~b < 1; b++~
