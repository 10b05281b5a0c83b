# a row behind the last one is written
/^__global__ void registers3(/,/^}/ s~if (r < rows~if (r <= rows~
