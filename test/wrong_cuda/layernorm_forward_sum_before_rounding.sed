# mean of the sum before it is rounded to floatX
/^__global__ void layernorm_forward_kernel(/,/^}/ s~x = value(sum_out\[row + c\]);~x += value(b[row + c]);~
