# only the first 256 columns become the gradient
/^__global__ void crossentropy_kernel(/,/^}/ s~v < Vp; v += BLOCK~v < Vp; v += Vp~
