# the losses of accumulated batches are summed, not averaged
/^double train_step(/,/^}/ s~s->context, 1) / s->accum~s->context, 1)~
