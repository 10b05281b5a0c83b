# changes a3.q2 a3.q4 a3.q7
# A new expert takes the highest free slot, not the lowest.
/^int adapt_update(/,/^}/ s~the lowest free slot~the highest free slot~
/^int adapt_update(/,/^}/ s~int e = E - 1; e >= 0; e--~int e = 0; e < E; e++~
