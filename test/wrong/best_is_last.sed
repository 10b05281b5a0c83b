# the best validation loss is the last one
/^void validate(/,/^}/ s~if (loss < p->best_val) { p->best_val = loss; }~p->best_val = loss;~
