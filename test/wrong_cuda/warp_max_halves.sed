# the two halves of a warp are not compared
/^__device__ inline float warp_max(/,/^}/ s~WARP / 2~WARP / 4~
