# logits are multiplied by the temperature
/^int sample_token(/,/^}/ s~(c\[v\]\.p - max) / temperature~(c[v].p - max) * temperature~
