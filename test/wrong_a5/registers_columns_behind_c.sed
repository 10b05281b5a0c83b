# columns of x behind C are read, and meet the zeros of W
/^__global__ void registers3(/,/^}/ s~r0 + i < rows \&\& c < C ? value~r0 + i < rows ? value~
