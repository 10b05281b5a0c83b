# heads come back in reverse order
/^__global__ void unpermute_kernel(/,/^}/ s~+ h \* HS~+ (C / HS - 1 - h) * HS~
