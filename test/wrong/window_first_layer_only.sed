# only the first DynMoE layer is updated
/^void window_ends(/,/^}/ s~l < model->config\.L; l++) {~l < 1; l++) {~
