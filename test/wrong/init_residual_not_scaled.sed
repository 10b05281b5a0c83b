# the projections on the residual path start at 0.02 as well
/^void tensor_init(/,/^}/ s~0\.02f / sqrtf(2\.0f \* (float)c->L)~0.02f~
