# the padded columns are part of the softmax
/^__global__ void crossentropy_kernel(/,/^}/ s~v < V; v += BLOCK) { sum~v < Vp; v += BLOCK) { sum~
