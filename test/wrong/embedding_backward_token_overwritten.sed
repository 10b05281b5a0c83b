# a token that occurs twice gets the gradient of its last place only
/^void embedding_backward(/,/^}/ s~de\[c\] += d\[c\]~de[c] = d[c]~
