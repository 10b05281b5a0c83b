# balance counts tokens that no expert serves
/^void route_losses(/,/^}/ s~n1 = N - a->unrouted~n1 = N~
