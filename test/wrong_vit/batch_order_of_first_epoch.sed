# every epoch has the order of the first one
/^void training_batch(/,/^}/ s~epoch_order(order, n, s->seed, epoch)~epoch_order(order, n, s->seed, 0)~
