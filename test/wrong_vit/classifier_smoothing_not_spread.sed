# smoothing only takes away
/^__global__ void classifier_kernel(/,/^}/ s~ + smoothing / (float)classes~~
