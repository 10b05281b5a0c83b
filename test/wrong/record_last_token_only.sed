# R_S is the last token without experts instead of the sum
/^void record_forward(/,/^}/ s~sum\[c\] += ~sum[c] = ~
