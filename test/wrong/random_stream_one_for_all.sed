# weights, batches and samples all draw from the same stream
/^uint64_t random_stream(/,/^}/ s~seed \* 4 + stream + 1~seed * 4 + 1~
