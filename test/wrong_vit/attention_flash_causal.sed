# with flash attention a patch sees only those before it
/^void attention_half_forward(/,/^}/ s~flash_forward(\(.*\)CAUSAL)~flash_forward(\1 1)~
