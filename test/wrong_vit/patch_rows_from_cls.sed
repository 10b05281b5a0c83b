# the CLS token counts as a patch
/^__global__ void patch_rows_kernel(/,/^}/ s~j / C / (T - 1) + 1~j / C / (T - 1)~
