# the rows are not divided by their length
/^float diversity_loss(/,/^}/ s~dot / ((double)wnorm\[i\] \* wnorm\[j\])~dot~
