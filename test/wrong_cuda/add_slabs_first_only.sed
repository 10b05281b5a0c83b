# only the first slab is added
/^__global__ void add_slabs_kernel(/,/^}/ s~s < slabs~s < 1~
