# the position embedding of the sequence, not of the place in it
/^__global__ void embedding_forward_kernel(/,/^}/ s~i % T \* C~i / T % T * C~
