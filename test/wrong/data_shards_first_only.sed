# only the last shard is counted
/^size_t data_places(/,/^}/ s~n += shard_places~n = shard_places~
