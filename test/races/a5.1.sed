# a5.q1
# a warp overwrites the tile that others still read
/^__global__ void tiles2(/,/^}/ s~__syncthreads(); // nobody reads~// nobody reads~
