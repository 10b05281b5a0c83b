# channels from 256 on get no gradient
/^__global__ void gate_backward_W_kernel(/,/^}/ s~c += blockDim\.x~c += C~
