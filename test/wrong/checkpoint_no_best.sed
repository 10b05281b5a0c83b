# a resume forgets the best validation loss
/^void checkpoint_load(/,/^}/ s~p->best_val = meta_float(f, "best_val", 0, INFINITY);~~
