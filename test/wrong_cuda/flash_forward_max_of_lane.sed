# the largest score of a lane, not of a row
/^__global__ void flash_forward_kernel(/,/^}/ s~top = quad_max(top);~~
