# a token of zeros has cosine 0/0
/^__global__ void gate_forward_kernel(/,/^}/ s~fmaxf(norm, NORM_EPS)~norm~
