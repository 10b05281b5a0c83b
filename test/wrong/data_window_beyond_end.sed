# the last window needs a target that is not there
/^size_t shard_places(/,/^}/ s~(s->n - 1 - (size_t)T)~(s->n - (size_t)T)~
