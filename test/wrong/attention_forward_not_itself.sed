# causal mask off by one: a query does not see its own token
/^void attention_forward(/,/^}/ s~causal ? t0 + i + 1 : T~causal ? t0 + i : T~
