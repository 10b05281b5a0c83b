# the two halves change places
/^__device__ inline uint32_t pack(/,/^}/ s~(low, high);~(high, low);~
