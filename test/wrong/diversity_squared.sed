# the norm is left squared
/^float diversity_loss(/,/^}/ s~return (float)F~return (float)sum~
