# what lies behind the last column is written into the next row
/^__global__ void tiles2(/,/^}/ s~r < rows && h < H) { out~r < rows) { out~
