# lanes 2i and 2i + 1 are not added
/^__device__ inline float warp_sum(/,/^}/ s~o > 0~o > 1~
