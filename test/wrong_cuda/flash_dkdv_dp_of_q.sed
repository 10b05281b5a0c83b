# dp from q, not from dout
/^__global__ void flash_dkdv_kernel(/,/^}/ s~add_scores(ds, v, D~add_scores(ds, v, Q~
