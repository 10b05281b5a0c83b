# all accumulated batches of a step are the first one
/^double train_step(/,/^}/ s~s->overfit ? &first~s->overfit || s->accum > 1 ? \&first~
