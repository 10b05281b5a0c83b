# the entropy is negative
/^__global__ void token_sums_kernel(/,/^}/ s~-(double)p \* log~(double)p * log~
