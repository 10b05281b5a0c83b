# the histogram of k is that of the last batch
/^void routing_add(/,/^}/ s~r\[l\]\.hist\[k\] += ~r[l].hist[k] = ~
