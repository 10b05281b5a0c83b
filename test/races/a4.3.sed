# a4.q5
# reads behind the end of row_token, by warps that then return
/^__global__ void gather_forward_kernel(/,/^}/ s~if (r >= R) { return; }~int early = row_token[r]; if (r >= R \&\& early != 12345) { return; }~
