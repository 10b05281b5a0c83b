# batches come from the first part of the text only
/^void data_batch(/,/^}/ s~data_places(d, T, 1)~data_places(d, T, T)~
