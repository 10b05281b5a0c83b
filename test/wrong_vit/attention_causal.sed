# a patch sees only those before it
/^void attention_half_forward(/,/^}/ s~model->config\.NH, 0)~model->config.NH, 1)~
