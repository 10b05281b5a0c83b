# the dot product is not divided by |x|
/^__global__ void gate_forward_kernel(/,/^}/ s~fmaxf(norm, NORM_EPS)~1.0f~
