# the batches after a resume are those of the begin
/^void checkpoint_load(/,/^}/ s~p->rng_data = strtoull(meta_text(f, "rng_data"), NULL, 10);~~
