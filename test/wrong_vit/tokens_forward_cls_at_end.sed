# the CLS token is the last one
/^__global__ void tokens_forward_kernel(/,/^}/ s~t == 0 ? value(cls\[c\])~t == (size_t)T - 1 ? value(cls[c])~
