# half of what was added up keeps the old largest score
/^__global__ void flash_forward_kernel(/,/^}/ s~o\[n\]\[2 \* i\] \*= shrink;~~
