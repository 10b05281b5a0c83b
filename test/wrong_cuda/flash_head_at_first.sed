# all heads begin at the first
/^__device__ inline size_t head_at(/,/^}/ s~(size_t)(i % (C / TILE)) \* TILE~0~
