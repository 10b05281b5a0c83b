# a token without rows keeps what was in y
/^void combine_forward(/,/^}/ s~memset(y + (size_t)i \* C, 0, (size_t)C \* sizeof(float));~~
