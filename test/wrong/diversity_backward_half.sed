# the factor 2 is missing: each pair counts for i and for j
/^float diversity_loss(/,/^}/ s~weight \* 2\.0 / F~weight / F~
