# the projections on the residual path are scaled for one of them per layer
/^void tensor_init(/,/^}/ s~sqrtf(2\.0f \* (float)c->L)~sqrtf((float)c->L)~
