# the moments of the weights of a new expert are kept
/^void reset_slot_moments(/,/^}/ s~!t->moe)~!t->moe || t->ndim > 2)~
