# the bias sees 32 pictures
/^__global__ void head_bias_kernel(/,/^}/ s~b < B; b += WARP~b < B \&\& b < WARP; b += WARP~
