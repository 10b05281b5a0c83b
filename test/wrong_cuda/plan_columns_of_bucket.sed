# a product is done for all rows of the bucket
/^int matmul_epilogue(/,/^}/ s~columns = (uint64_t)M~columns = (uint64_t)(blocks_for((size_t)M, PLAN_ROWS) * PLAN_ROWS)~
