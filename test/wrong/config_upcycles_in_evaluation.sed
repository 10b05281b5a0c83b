# --eval-only of a dense model turns its layers into DynMoE layers
/^Config config_make(/,/^}/ s~m == NULL && !s->eval_only~m == NULL~
