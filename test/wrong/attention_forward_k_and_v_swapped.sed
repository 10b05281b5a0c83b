# keys and values are swapped
/^void attention_forward(/,/^}/ s~const float\* k = q + C;~const float* k = q + 2 * C;~
