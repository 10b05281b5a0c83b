# only half of the threads are compared
/^__device__ inline float block_max(/,/^}/ s~half = BLOCK / 2~half = BLOCK / 4~
