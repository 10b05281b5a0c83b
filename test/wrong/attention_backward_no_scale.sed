# the gradients of q and k forget 1/sqrt(HS)
/^void attention_backward(/,/^}/ s~scale = 1\.0f / sqrtf((float)HS)~scale = 1.0f~
