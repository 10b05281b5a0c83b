# contrast about black
/^__device__ inline float jitter(/ s~- 0\.5f) \* v->contrast + 0\.5f~- 0.0f) * v->contrast + 0.0f~
