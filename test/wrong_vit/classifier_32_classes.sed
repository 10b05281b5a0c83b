# only the first 32 classes get a gradient
/^__global__ void classifier_kernel(/,/^}/ s~if (gradient) {~if (gradient \&\& v < WARP) {~
