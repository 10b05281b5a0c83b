# the last row is not written
/^__device__ inline void rows_store(/,/^}/ s~row < T;~row < T - 1;~
