# the gradient is that of the squared length
/^float simplicity_loss(/,/^}/ s~ \* C + c\] / wnorm\[e\]~ * C + c]~
