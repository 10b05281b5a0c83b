# epsilon is added under the root instead of to it
/^void adamw(/,/^}/ s~sqrtf(v\[i\] / correction2) + eps~sqrtf(v[i] / correction2 + eps)~
