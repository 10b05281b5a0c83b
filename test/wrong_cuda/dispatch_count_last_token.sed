# the last token is not counted
/^__global__ void dispatch_count_kernel(/,/^}/ s~i < N &&~i < N - 1 \&\&~
