# the bias correction counts steps from 0: a division by 0
/^void gpt2_update(/,/^}/ s~pow(beta1, step + 1)~pow(beta1, step)~
