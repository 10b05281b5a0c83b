# the sum sees the first 32 classes
/^__global__ void classifier_kernel(/,/^}/ s~v < classes; v += WARP) { sum +=~v < WARP \&\& v < classes; v += WARP) { sum +=~
