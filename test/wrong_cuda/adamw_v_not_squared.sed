# the second moment of g, not of its square
/^__global__ void adamw_kernel(/,/^}/ s~gi \* gi~gi~
