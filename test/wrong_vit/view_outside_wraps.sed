# what comes in from outside is the next row
/^__device__ inline float view_pixel(/,/^}/ s~r >= 0 && r < size && c >= 0 && c < size~r >= 0 \&\& r < size~
