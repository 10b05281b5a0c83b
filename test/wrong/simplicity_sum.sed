# the sum of lengths instead of their mean
/^float simplicity_loss(/,/^}/ s~? sum / active~? sum~
