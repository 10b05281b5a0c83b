# the sum is not added to what is there
/^__global__ void add_slabs_kernel(/,/^}/ s~out\[i\] += sum~out[i] = sum~
