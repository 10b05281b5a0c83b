# rows of experts that are not active are scaled
/^__global__ void unit_rows_kernel(/,/^}/ s~ || !mask\[e\]~~
