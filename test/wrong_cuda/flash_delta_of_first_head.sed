# all heads write to the first
/^__global__ void flash_delta_kernel(/,/^}/ s~ \* NH + r % NH~ * NH~
