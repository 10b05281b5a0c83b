# a text of exactly one window and its target is refused
/^size_t shard_places(/,/^}/ s~s->n > (size_t)T ?~s->n > (size_t)T + 1 ?~
