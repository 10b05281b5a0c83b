# padded columns of the vocabulary can be drawn
/^void generate(/,/^}/ s~model->config\.V, s->temperature~model->config.Vp, s->temperature~
