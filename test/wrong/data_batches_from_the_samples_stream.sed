# batches use up the random numbers of the samples
/^double train_step(/,/^}/ s~&p->rng_data~\&p->rng_sample~
