# the last training tokens are validation tokens too
/^Data data_split(/,/^}/ s~last->n -= val\.shard\[0\]\.n~last->n -= val.shard[0].n / 2~
