# half of the table keeps the rows of the step before
/^__global__ void fill_kernel(/,/^}/ s~i < n~i < n / 2~
