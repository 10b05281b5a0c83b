# training falls back to the nearest expert as well
/^void route_forward(/,/^}/ s~!training || c->train_fallback~1~
