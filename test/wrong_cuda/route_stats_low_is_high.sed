# the smallest score is the largest of the threads
/^__global__ void route_stats_kernel(/,/^}/ s~low = -block_max(-low)~low = block_max(low)~
