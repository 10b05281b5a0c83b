# k = 1 for a token that the fallback served
/^__global__ void gate_forward_kernel(/,/^}/ s~k\[i\] = opened~k[i] = opened > 0 ? opened : fallback~
