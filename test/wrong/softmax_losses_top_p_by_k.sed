# the balance loss of top-p is divided by the pool
/^void route_forward(/,/^}/ s~c->router == TOP_P ? 1 : K < active~K < active~
