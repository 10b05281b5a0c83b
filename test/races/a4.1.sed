# a4.q4
# a warp writes its count of the next expert while others still read that of this one
/^__global__ void dispatch_fill_kernel(/,/^}/ s~__syncthreads(); // before~// before~
