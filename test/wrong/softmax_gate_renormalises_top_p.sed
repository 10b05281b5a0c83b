# top-p is renormalised too
/^void route_forward(/,/^}/ s~c->router == TOP_K && K > 1~c->router != DENSE \&\& K > 1~
