# patches run column by column
/^__global__ void patches_kernel(/,/^}/ s~int plane = k / (patch \* patch), row = p / side \* patch + k / patch % patch, col = p % side \* patch + k % patch;~int plane = k / (patch * patch), row = p % side * patch + k / patch % patch, col = p / side * patch + k % patch;~
