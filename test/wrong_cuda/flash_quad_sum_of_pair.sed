# of two lanes, not of four
/^__device__ inline float quad_sum(/,/^}/ s~x + __shfl_xor_sync(0xffffffffu, x, 2)~x~
