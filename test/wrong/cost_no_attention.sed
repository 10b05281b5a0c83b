# the cost of a token forgets the products of attention
/^Cost cost_at(/,/^}/ s~ + 2\.0 \* c->L \* c->T \* c->C~~
