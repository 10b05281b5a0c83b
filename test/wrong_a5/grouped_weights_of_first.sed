# all experts use the weights of the first
/^__global__ void grouped5(/,/^}/ s~W + (size_t)e \* H \* C~W~
