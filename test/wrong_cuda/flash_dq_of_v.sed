# dq from v, not from k
/^__global__ void flash_dq_kernel(/,/^}/ s~add_rows(dq, ds, K~add_rows(dq, ds, V~
