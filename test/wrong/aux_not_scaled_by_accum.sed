# the auxiliary terms of every micro-batch count in full
/^void route_backward_add(/,/^}/ s~aux_scale \* c->aux_weight\[i\]~c->aux_weight[i]~
