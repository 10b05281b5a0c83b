# the sum is divided by N only
/^float efficiency_loss(/,/^}/ s~((double)N \* E)~(double)N~
