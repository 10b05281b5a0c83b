# the dump holds the losses of the last batch only
/^void dump_batch(/,/^}/ s~d->loss + at~d->loss~
