# columns behind the last whole tile are lost
/^__global__ void tiles2(/,/^}/ s~begin < C;~begin + 15 < C;~
