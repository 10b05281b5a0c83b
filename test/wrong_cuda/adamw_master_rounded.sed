# the master copy is rounded to floatX
/^__global__ void adamw_kernel(/,/^}/ s~    p\[i\] = x;~    { floatX low; store(\&low, x); p[i] = value(low); }~
