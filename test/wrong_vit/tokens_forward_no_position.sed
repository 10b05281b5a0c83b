# the CLS token has no position
/^__global__ void tokens_forward_kernel(/,/^}/ s~x + value(wpe\[t \* C + c\])~x + (t > 0 ? value(wpe[t * C + c]) : 0.0f)~
