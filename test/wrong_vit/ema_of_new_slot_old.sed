# a new expert keeps the average of the one before
/^void reset_slot_moments(/,/^}/ s~if (ema == NULL) { continue; }~continue;~
