# the sum over the open gates is subtracted instead of the mean
/^void mean_backward(/,/^}/ s~mean += share \* d\[e\]~mean += d[e]~
