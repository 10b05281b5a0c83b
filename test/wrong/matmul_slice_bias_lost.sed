# the product replaces the bias instead of being added to it
/^void matmul_slice(/,/^}/ s~bias != NULL ? 1\.0f : beta~beta~
