# the two random states are saved in the wrong order
/^void checkpoint_save(/,/^}/ s~p->rng_data, p->rng_sample);~p->rng_sample, p->rng_data);~
