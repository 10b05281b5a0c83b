# the entropy loss has no gradient
/^void route_backward_add(/,/^}/ s~weight\[ENTROPY\], c->router~0.0f, c->router~
