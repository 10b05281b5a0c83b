# dv from ds
/^__global__ void flash_dkdv_kernel(/,/^}/ s~add_rows(dv, p,~add_rows(dv, ds,~
