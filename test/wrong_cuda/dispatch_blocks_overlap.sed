# the second block of tokens overwrites the rows of the first
/^__global__ void dispatch_scan_kernel(/,/^}/ s~+= start\[e\]~= start[e]~
