# the moments of that slot are reset in all layers
/^void reset_slot_moments(/,/^}/ s~t->layer != l || !t->moe~!t->moe~
