# the first class gets the share of the second
/^__global__ void classifier_kernel(/,/^}/ s~lam \* (v == y0) + (1\.0f - lam) \* (v == y1)~lam * (v == y1) + (1.0f - lam) * (v == y0)~
