# the samples after a resume are those of the begin
/^void checkpoint_load(/,/^}/ s~p->rng_sample = strtoull(meta_text(f, "rng_sample"), NULL, 10);~~
