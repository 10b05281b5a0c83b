# all heads get the gradient of the first
/^__global__ void permute_out_kernel(/,/^}/ s~+ h \* HS~+ 0 * HS~
