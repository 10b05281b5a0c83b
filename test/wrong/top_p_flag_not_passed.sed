# --topp is not passed on
/^void route_forward(/,/^}/ s~c->topp : INFINITY~0.4f : INFINITY~
