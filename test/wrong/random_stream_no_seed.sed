# the seed is forgotten
/^uint64_t random_stream(/,/^}/ s~seed \* 4 + stream + 1~stream + 1~
