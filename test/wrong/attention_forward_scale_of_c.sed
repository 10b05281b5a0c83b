# the scores are divided by sqrt(C) instead of sqrt(HS)
/^void attention_forward(/,/^}/ s~sqrtf((float)HS)~sqrtf((float)C)~
