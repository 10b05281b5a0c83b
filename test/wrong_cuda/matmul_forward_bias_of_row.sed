# the bias is taken by row, not by column
/^__global__ void copy_rows_kernel(/,/^}/ s~bias\[i % OC\]~bias[i / OC % OC]~
