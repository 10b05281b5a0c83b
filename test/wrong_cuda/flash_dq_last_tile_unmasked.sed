# keys behind the query, or behind the end, count
/^__global__ void flash_dq_kernel(/,/^}/ s~if (j == tiles - 1 &&~if (j == tiles \&\&~
