# the dump has the k of all layers in the place of the first
/^void dump_batch(/,/^}/ s~d->k + l \* d->n + at~d->k + at~
