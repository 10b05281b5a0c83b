# AdamW is counted for slots without an expert
/^Floor step_floor(/,/^}/ s~(E - active)~(E - E)~
