# a window in a later shard is always its first
/^void data_read(/,/^}/ s~{ place -= shard_places(s, T, stride); }~{ place = 0; }~
