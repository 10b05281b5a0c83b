# K of top-k is not saved
/^void checkpoint_save(/,/^}/ s~c->topk, (double)c->topp~1, (double)c->topp~
