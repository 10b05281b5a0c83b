# biases are written on lane 0
/^void matmul_forward(/,/^}/ s~lane->stream~lanes->stream~
