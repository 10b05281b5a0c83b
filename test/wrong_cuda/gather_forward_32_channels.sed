# channels from 32 on are not copied
/^__global__ void gather_forward_kernel(/,/^}/ s~c += WARP~c += C~
