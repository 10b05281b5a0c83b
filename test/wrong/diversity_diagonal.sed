# the diagonal counts as well
/^float diversity_loss(/,/^}/ s~i != j && mask\[i\]~mask[i]~
