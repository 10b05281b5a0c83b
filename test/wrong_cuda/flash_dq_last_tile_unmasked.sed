# keys behind the query, or behind the end, count
/^__global__ void flash_dq_kernel(/,/^}/ s~j == tiles - 1 &&~j == tiles \&\&~
