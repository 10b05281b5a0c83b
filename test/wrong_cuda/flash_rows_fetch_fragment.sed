# two registers of A change places
/^__device__ inline void rows_fetch(/,/^}/ s~i % 2 \* 8, col = i / 4 \* 16 + i % 4 / 2 \* 8~i % 4 / 2 * 8, col = i / 4 * 16 + i % 2 * 8~
