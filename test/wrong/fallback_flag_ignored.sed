# --train-fallback does nothing
/^void route_forward(/,/^}/ s~!training || c->train_fallback~!training~
