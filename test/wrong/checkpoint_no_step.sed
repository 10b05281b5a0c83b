# a resume begins at step 0
/^void checkpoint_load(/,/^}/ s~p->step = meta_int(f, "step", 0, 2000000000);~~
