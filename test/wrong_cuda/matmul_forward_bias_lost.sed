# without an epilogue the bias is overwritten
/^void matmul_forward(/,/^}/ s~bias != NULL ? 1\.0f : 0\.0f~0.0f~
