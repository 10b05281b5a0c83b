# the records are cleared before every step: only the last one of the window counts
/^double train_step(/,/^}/ s~model->step = p->step;~model->step = p->step; gpt2_clear_records(model);~
