# the scores are not divided by sqrt(HS)
/^void attention_forward(/,/^}/ s~1\.0f / sqrtf((float)HS)~1.0f~
