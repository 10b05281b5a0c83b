# tokens that the fallback served count as used
/^__global__ void route_stats_kernel(/,/^}/ s~ && k\[i\] > 0;~;~
