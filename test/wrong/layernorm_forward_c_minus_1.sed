# the variance is divided by C - 1
/^void layernorm_forward(/,/^}/ s~var / (float)C~var / (float)(C - 1)~
