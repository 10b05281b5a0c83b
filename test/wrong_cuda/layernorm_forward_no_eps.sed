# no epsilon under the root
/^__global__ void layernorm_forward_kernel(/,/^}/ s~ + 1e-5f~~
