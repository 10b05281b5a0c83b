# only the first 65536 places are drawn
/^void data_batch(/,/^}/ s~(high << 32 | random_u32(rng))~((high << 32 | random_u32(rng)) \& 65535)~
