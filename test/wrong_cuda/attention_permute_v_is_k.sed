# v is a copy of k
/^__global__ void permute_kernel(/,/^}/ s~from\[2 \* C\]~from[C]~
