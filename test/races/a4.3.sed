# a4.q5
# warps without a row read behind the end of row_token before they return
/^__global__ void gather_forward_kernel(/,/^}/ s~if (r >= R) { return; }~if (row_token[r] < -1 || r >= R) { return; }~
