# columns of x behind C are read, and meet the zeros of W
/^__global__ void tiles2(/,/^}/ s~r < rows \&\& c < C ? value~r < rows ? value~
