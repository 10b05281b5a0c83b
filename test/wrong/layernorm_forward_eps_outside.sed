# epsilon is added to the root instead of under it
/^void layernorm_forward(/,/^}/ s~sqrtf(var / (float)C + 1e-5f)~(sqrtf(var / (float)C) + 1e-5f)~
