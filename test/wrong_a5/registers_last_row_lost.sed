# the last row of an expert is lost
/^__global__ void registers3(/,/^}/ s~if (r < rows~if (r + 1 < rows~
