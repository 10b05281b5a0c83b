# the gradient is divided by the size of the pool instead of by the active experts
/^float simplicity_loss(/,/^}/ s~weight / active~weight / (float)E~
