# decay on the wrong one
/^__global__ void ema_kernel(/,/^}/ s~decay \* ema\[i\] + (1\.0f - decay) \* p\[i\]~(1.0f - decay) * ema[i] + decay * p[i]~
