# the width of experts is not saved
/^void checkpoint_save(/,/^}/ s~c->topk, (double)c->topp, c->S, c->H~c->topk, (double)c->topp, c->S, 4 * c->C~
