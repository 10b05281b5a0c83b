# entropy is not scaled by the weight of the micro-batch
/^void moe_backward(/,/^}/ s~aux_scale \* c->aux_weight\[ENTROPY\]~c->aux_weight[ENTROPY]~
