# the first step has the learning rate 0
/^float learning_rate(/,/^}/ s~(float)(step + 1) / (float)s->warmup~(float)step / (float)s->warmup~
