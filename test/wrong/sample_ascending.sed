# the least likely tokens come first
/^int compare_choices(/,/^}/ s~(x->p < y->p) - (x->p > y->p)~(x->p > y->p) - (x->p < y->p)~
