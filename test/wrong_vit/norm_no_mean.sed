# the mean stays in
/^__device__ inline float view_pixel(/,/^}/ s~(x - of_plane(norm\.mean, plane))~(x - 0.0f * of_plane(norm.mean, plane))~
