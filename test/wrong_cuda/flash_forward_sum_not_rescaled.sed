# the sum of exponentials keeps the old largest score
/^__global__ void flash_forward_kernel(/,/^}/ s~l\[i\] \* shrink + sum~l[i] + sum~
