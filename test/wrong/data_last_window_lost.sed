# the last window is never used
/^size_t shard_places(/,/^}/ s~(size_t)stride + 1~(size_t)stride~
