# all sequences of a batch are the same
/^void data_batch(/,/^}/ s~x + (size_t)b \* T, y + (size_t)b \* T~x, y~
