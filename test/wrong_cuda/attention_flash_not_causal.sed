# with flash attention a token sees the whole sequence
/^void attention_half_forward(/,/^}/ s~flash_forward(\(.*\)CAUSAL)~flash_forward(\1 0)~
