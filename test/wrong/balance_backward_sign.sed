# the gradient has the wrong sign: load goes to the busiest
/^float balance_loss(/,/^}/ s~(ce\[e\] - mean)~(mean - ce[e])~
