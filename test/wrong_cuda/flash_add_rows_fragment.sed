# two registers of A change places
/^__device__ inline void add_rows(/,/^}/ s~pack(p\[0\]\[2\], p\[0\]\[3\]), pack(p\[1\]\[0\], p\[1\]\[1\])~pack(p[1][0], p[1][1]), pack(p[0][2], p[0][3])~
