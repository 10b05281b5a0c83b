# the gradient through the experts is lost
/^__global__ void gate_backward_x_kernel(/,/^}/ s~value(dx\[(size_t)i \* C + c\]) - along~0.0f - along~
