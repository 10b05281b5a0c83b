# of the earlier warps only the first counts
/^__global__ void dispatch_fill_kernel(/,/^}/ s~w < warp;~w < min(warp, 1);~
