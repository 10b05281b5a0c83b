# every slice of columns gets the bias of the first
/^void matmul_slice(/,/^}/ s~bias + j, (size_t)n~bias, (size_t)n~
