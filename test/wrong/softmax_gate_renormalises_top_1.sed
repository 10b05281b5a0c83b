# with K = 1 the weight becomes 1, and the router learns nothing from the loss
/^void route_forward(/,/^}/ s~c->router == TOP_K && K > 1~c->router == TOP_K~
