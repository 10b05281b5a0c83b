# the maximum is not subtracted: large logits overflow
/^int sample_token(/,/^}/ s~(c\[v\]\.p - max) / temperature~(c[v].p + 0.0f * max) / temperature~
