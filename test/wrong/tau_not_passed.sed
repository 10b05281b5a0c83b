# --gate-scale is not passed on
/^void route_backward_add(/,/^}/ s~p->gateG, c->tau~p->gateG, 1.0f~
