# the second half of a tile is lost
/^__device__ inline void tile_product(/,/^}/ s~k < K; k += 16~k < K; k += K~
