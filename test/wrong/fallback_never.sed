# evaluation does not fall back
/^void route_forward(/,/^}/ s~!training || c->train_fallback~c->train_fallback~
