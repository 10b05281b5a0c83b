# the tile as it lies
/^__device__ inline void add_rows(/,/^}/ s~ldmatrix_x4_trans~ldmatrix_x4~
