# the part of dx along x is kept
/^__global__ void gate_backward_x_kernel(/,/^}/ s~ - along \* value(x\[(size_t)i \* C + c\])~ - 0.0f * along~
