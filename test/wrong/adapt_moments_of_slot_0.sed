# the moments of expert 0 are reset instead of those of the new one
/^void reset_slot_moments(/,/^}/ s~model->m_memory + t->offset + slot \* n~model->m_memory + t->offset~
