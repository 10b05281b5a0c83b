# reads the last patch
/^__global__ void cls_forward_kernel(/,/^}/ s~(j / C) \* T \* C + j % C~((j / C) * T + T - 1) * C + j % C~
