# only half of the threads are added
/^__device__ inline double block_sum(/,/^}/ s~half = BLOCK / 2~half = BLOCK / 4~
