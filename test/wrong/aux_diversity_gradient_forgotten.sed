# the diversity loss has no gradient
/^void route_backward_add(/,/^}/ s~if (weight\[DIVERSITY\] != 0\.0f)~if (0)~
