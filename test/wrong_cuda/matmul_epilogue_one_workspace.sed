# all lanes give cublasLt the same workspace
/^int matmul_epilogue(/,/^}/ s~lane->workspace~lanes->workspace~
