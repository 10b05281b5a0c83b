# each thread adds one number only
/^__global__ void squares_kernel(/,/^}/ s~i += (size_t)gridDim.x \* BLOCK~i += n~
