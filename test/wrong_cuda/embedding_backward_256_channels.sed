# channels from 256 on get no gradient
/^__global__ void embedding_backward_wte_kernel(/,/^}/ s~c += blockDim\.x~c += C~
