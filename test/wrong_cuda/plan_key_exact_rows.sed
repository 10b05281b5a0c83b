# a plan serves one number of rows
/^int matmul_epilogue(/,/^}/ s~blocks_for((size_t)M, PLAN_ROWS) \* PLAN_ROWS, N~M, N~
