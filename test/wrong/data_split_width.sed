# the split forgets that a token has two bytes
/^Data data_split(/,/^}/ s~last->n \* (size_t)train->width~last->n~
