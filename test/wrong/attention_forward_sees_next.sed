# causal mask off by one: a query sees the next token
/^void attention_forward(/,/^}/ s~causal ? t0 + i + 1 : T~causal ? (t0 + i + 2 < width ? t0 + i + 2 : width) : T~
