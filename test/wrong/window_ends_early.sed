# the window ends one step early
/^double train_step(/,/^}/ s~== 2 \* s->window~== 2 * s->window - 1~
