# G moves the wrong way
/^__global__ void gate_backward_G_kernel(/,/^}/ s~dG\[e\] -=~dG[e] +=~
