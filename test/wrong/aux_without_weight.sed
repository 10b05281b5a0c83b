# the sum of auxiliary terms forgets their weights
/^void moe_forward(/,/^}/ s~c->aux_weight\[i\] \* a->aux\[i\]~a->aux[i]~
