# the entropy is in bits
/^void softmax_losses(/,/^}/ s~p \* log(p)~p * log2(p)~
