# the new expert takes the highest free slot
/^int adapt_update(/,/^}/ s~int e = E - 1; e >= 0; e--~int e = 0; e < E; e++~
