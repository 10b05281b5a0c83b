# the first 16 numbers of a head for all
/^__device__ inline void add_scores(/,/^}/ s~a\[k\], b);~a[0], b);~
