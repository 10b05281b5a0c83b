# gray counts red only
/^__device__ inline float view_pixel(/,/^}/ s~0\.299f \* jitter~0.999f * jitter~
