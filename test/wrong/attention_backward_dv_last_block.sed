# values get the gradient of one block of queries only
/^void attention_backward(/,/^}/ s~HS, rows, 1\.0f, beta~HS, rows, 1.0f, 0.0f~
