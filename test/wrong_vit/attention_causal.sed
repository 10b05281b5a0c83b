# a patch sees only those before it
/^void attention_half_forward(/,/^}/ s~attention_forward(\(.*\)CAUSAL)~attention_forward(\1 1)~
