# a4.q3
# every thread looks at the total of another one without a barrier in between
/^__global__ void dispatch_scan_kernel(/,/^}/ s~if (e < E) { total\[e\] = sum; }~if (e < E) { total[e] = sum; if (total[0] < 0) { return; } }~
