# the rows after the GELU lie over those before it
/^void rows_reserve(/,/^}/ s~a->pre + (size_t)R \* H~a->pre + (size_t)R * C~
