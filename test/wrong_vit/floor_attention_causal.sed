# half of the keys are in the future
/^Floor step_floor(/,/^}/ s~4\.0 \* N \* c->T~2.0 * N * c->T~
