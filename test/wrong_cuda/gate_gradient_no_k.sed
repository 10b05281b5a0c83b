# the 1/k of eq. (6) is missing
/^__global__ void gate_gradient_kernel(/,/^}/ s~d\[e\] \*= share;~~
