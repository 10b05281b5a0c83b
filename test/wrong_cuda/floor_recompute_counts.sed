# what attention computes again counts as work of the model
/^Floor step_floor(/,/^}/ s~fmin(part\[i\]\.back, 2\.0)~part[i].back~
