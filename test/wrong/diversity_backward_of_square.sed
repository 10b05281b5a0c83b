# the gradient is that of the square: 1/F is missing
/^float diversity_loss(/,/^}/ s~weight \* 2\.0 / F~weight * 2.0~
