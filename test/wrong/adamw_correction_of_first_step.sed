# the bias correction stays that of the first step
/^void gpt2_update(/,/^}/ s~pow(beta2, step + 1)~pow(beta2, 1)~
