# the mean over the open gates is not subtracted
/^float balance_loss(/,/^}/ s~(ce\[e\] - mean)~ce[e]~
