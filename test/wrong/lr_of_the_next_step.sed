# the update uses the learning rate of the next step
/^double train_step(/,/^}/ s~learning_rate(s, p->step)~learning_rate(s, p->step + 1)~
