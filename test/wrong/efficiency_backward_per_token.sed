# the gradient is divided by N only
/^float efficiency_loss(/,/^}/ s~((float)N \* (float)E)~(float)N~
