# no fallback in evaluation
/^void moe_forward(/,/^}/ s~!training || c->train_fallback~c->train_fallback~
