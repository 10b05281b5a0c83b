# a position gets the gradient of the last sequence only
/^void embedding_backward(/,/^}/ s~dp\[c\] += d\[c\]~dp[c] = d[c]~
