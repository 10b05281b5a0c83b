# the last step is not yet at --lr-end
/^float learning_rate(/,/^}/ s~/ (float)(s->steps - 1 - s->warmup)~/ (float)(s->steps - s->warmup)~
