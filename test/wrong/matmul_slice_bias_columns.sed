# every slice of columns gets the bias of the first
/^void matmul_slice(/,/^}/ s~bias + n0, (size_t)n~bias, (size_t)n~
