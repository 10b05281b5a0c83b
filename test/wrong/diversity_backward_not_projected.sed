# the part along the row stays in its gradient
/^float diversity_loss(/,/^}/ s~dv = -along\[i\] \* W~dv = -0.0 * W~
