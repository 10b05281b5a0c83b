# count without the tokens that the fallback served
/^__global__ void route_stats_kernel(/,/^}/ s~s->count\[b\] = (int)n~s->count[b] = (int)used~
