# behind the edge of W stands another row
/^__global__ void tiles2(/,/^}/ s~hw < H && c < C ?~c < C ?~
