# of a new expert only the first moments are reset
/^void reset_slot_moments(/,/^}/ s~memset(model->v_memory + t->offset + slot \* n, 0, n \* sizeof(float));~~
