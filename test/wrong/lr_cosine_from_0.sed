# the cosine counts the warm-up
/^float learning_rate(/,/^}/ s~(float)(step - s->warmup) /~(float)step /~
