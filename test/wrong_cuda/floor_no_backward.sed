# the backward takes no time
/^Floor step_floor(/,/^}/ s~(forward + backward)~forward~
