# the last token of each whole slab is lost
/^__global__ void gate_backward_W_kernel(/,/^}/ s~begin + SLAB)~begin + SLAB - 1)~
