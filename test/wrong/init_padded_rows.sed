# the padded rows of the vocabulary are random
/^void tensor_init(/,/^}/ s~(size_t)c->V \* c->C~(size_t)c->Vp * c->C~
