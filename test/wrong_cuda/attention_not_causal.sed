# a token sees the whole sequence
/^void attention_half_forward(/,/^}/ s~attention_forward(\(.*\)CAUSAL)~attention_forward(\1 0)~
