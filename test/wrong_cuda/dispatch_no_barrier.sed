# a warp overwrites counts that others still read
/^__global__ void dispatch_fill_kernel(/,/^}/ s~__syncthreads(); // before~;// before~
