# the new row of W is the mean of unrouted tokens, not of length 1
/^int adapt_update(/,/^}/ s~sum\[c\] / length~sum[c] / (double)unrouted~
