# the residual is not added
/^__global__ void combine_forward_kernel(/,/^}/ s~residual != NULL ?~residual == (const floatX*)1 ?~
