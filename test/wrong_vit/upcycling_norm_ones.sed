# an upcycled expert's LayerNorm starts at 1
/^void weights_load(/,/^}/ s~int norm = strncmp(moe, "moe\.ln", 6) == 0;~int norm = strncmp(moe, "moe.ln", 6) == 0; if (norm) { tensor_init(model, t, 0, threshold, rng); continue; }~
