# rows g and g + 8 of A change places
/^__device__ inline void tile_product(/,/^}/ s~pair(a0), pair(a1), pair(a0 + 8), pair(a1 + 8)~pair(a1), pair(a0), pair(a0 + 8), pair(a1 + 8)~
