# a quarter of each row
/^__device__ inline void tile_fetch(/,/^}/ s~i % (TILE / 8) \* 8;~i % (TILE / 8) / 4 * 8;~
