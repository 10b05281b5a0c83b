# a token sees the whole sequence
/^void attention_half_forward(/,/^}/ s~model->config\.NH, 1)~model->config.NH, 0)~
