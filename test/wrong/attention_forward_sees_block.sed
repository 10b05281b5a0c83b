# no causal mask within a block of queries
/^void attention_forward(/,/^}/ s~causal ? t0 + i + 1 : T~width~
