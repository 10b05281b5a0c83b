# half of each head
/^__global__ void flash_delta_kernel(/,/^}/ s~value(out\[i\]) + value(dout\[i + 1\]) \* value(out\[i + 1\])~value(out[i])~
