# act begins within pre
/^void rows_reserve(/,/^}/ s~a->pre + (size_t)R \* H~a->pre + (size_t)R * C / 2~
