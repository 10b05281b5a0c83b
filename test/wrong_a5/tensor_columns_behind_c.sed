# columns of x behind C are read, and meet the zeros of W
/^__device__ inline void tile_product(/,/^}/ s~r0 + i < rows \&\& c < C ?~r0 + i < rows ?~
