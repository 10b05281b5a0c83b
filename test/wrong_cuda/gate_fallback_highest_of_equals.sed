# of equal cosines the fallback takes the last
/^__global__ void gate_forward_kernel(/,/^}/ s~c > best_cosine~c >= best_cosine~
