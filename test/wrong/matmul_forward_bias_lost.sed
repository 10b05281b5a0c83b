# the product replaces the bias instead of being added to it
/^void matmul_forward(/,/^}/ s~bias != NULL ? 1\.0f : 0\.0f~0.0f~
