# a token with more experts counts more: 1/k is missing
/^float balance_loss(/,/^}/ s~E + e\] / k\[i\];~E + e];~
