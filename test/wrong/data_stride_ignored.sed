# windows side by side all overlap
/^void data_read(/,/^}/ s~place \* (size_t)stride~place~
