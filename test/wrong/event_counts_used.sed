# the event of an added expert counts the tokens of expert 0
/^void window_ends(/,/^}/ s~model->layer\[l\]\.record_unrouted~model->layer[l].record_count[0]~
