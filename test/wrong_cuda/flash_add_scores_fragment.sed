# rows and columns of two 8 x 8 change places
/^__device__ inline void add_scores(/,/^}/ s~lane % 8 + lane / 16 \* 8\]\[k \* 16 + lane / 8 % 2 \* 8~lane % 8 + lane / 8 % 2 * 8][k * 16 + lane / 16 * 8~
