# a token sees the one behind it
/^__global__ void softmax_forward_kernel(/,/^}/ s~r % T + 1 : T~min(r % T + 2, T) : T~
