# decay is added to the gradient: Adam with L2, not AdamW
/^void adamw(/,/^}/ s~gi = scale \* g\[i\]~gi = scale * g[i] + decay * p[i]~
