# keys get the gradient of one block of queries only
/^void attention_backward(/,/^}/ s~HS, rows, scale, beta~HS, rows, scale, 0.0f~
