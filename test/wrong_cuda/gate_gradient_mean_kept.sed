# the mean is not subtracted
/^__global__ void gate_gradient_kernel(/,/^}/ s~if (normalised)~if (0)~
