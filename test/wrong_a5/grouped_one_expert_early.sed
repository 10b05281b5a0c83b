# an expert begins one row late
/^__global__ void grouped5(/,/^}/ s~r0 >= offset~r0 > offset~
