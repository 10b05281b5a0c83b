# the next token is drawn from the logits of the first position
/^void generate(/,/^}/ s~gpt2_logits(model, t - 1)~gpt2_logits(model, 0)~
