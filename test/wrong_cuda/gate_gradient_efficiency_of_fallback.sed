# efficiency and balance act on tokens that the fallback serves
/^__global__ void gate_gradient_kernel(/,/^}/ s~if (k\[i\] > 0)~if (1)~
