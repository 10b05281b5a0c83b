# dk without 1/sqrt(HS)
/^void attention_backward(/,/^}/ s~datt, 1, q, 0, T, HS, T, scale~datt, 1, q, 0, T, HS, T, 1.0f~
