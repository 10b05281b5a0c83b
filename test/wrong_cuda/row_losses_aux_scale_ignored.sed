# simplicity is not scaled by the weight of the micro-batch
/^void row_losses_backward(/,/^}/ s~aux_scale \* c->aux_weight\[SIMPLICITY\]~c->aux_weight[SIMPLICITY]~
