# a mirrored picture moves the other way
/^__device__ inline float view_pixel(/,/^}/ s~size - 1 - col : col) + v->dx~size - 1 - col - v->dx : col + v->dx)~
