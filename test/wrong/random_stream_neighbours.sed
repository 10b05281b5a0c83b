# stream 1 of seed 5 is stream 0 of seed 6
/^uint64_t random_stream(/,/^}/ s~seed \* 4 + stream + 1~seed + stream + 1~
