# the mean stays in
/^__device__ inline float view_pixel(/,/^}/ s~(x - norm\.mean\[plane\])~(x - 0.0f * norm.mean[plane])~
