# rows are filled from the end
/^void gather_forward(/,/^}/ s~(size_t)row_token\[r\]~(size_t)row_token[R - 1 - r]~
