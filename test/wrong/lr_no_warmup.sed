# there is no warm-up
/^float learning_rate(/,/^}/ s~step < s->warmup~step < 0~
