# moments of the wrong expert are reset
/^void reset_slot_moments(/,/^}/ s~cudaMemset(m + t->offset + slot \* n~cudaMemset(m + t->offset + 0 * n~
