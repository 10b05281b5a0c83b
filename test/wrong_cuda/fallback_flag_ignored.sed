# --train-fallback does nothing
/^void moe_forward(/,/^}/ s~!training || c->train_fallback~!training~
