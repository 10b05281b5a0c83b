# the entropy is summed over the tokens
/^void softmax_losses(/,/^}/ s~(float)(h / N)~(float)h~
