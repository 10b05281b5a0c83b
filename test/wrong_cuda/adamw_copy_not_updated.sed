# kernels go on with the old weights
/^__global__ void adamw_kernel(/,/^}/ s~store(param + i, x)~if (sizeof(floatX) == 4) { store(param + i, x); }~
