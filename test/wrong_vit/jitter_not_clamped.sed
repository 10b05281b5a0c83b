# brightness above white
/^__device__ inline float jitter(/ s~clamp01(x \* v->brightness)~(x * v->brightness)~
