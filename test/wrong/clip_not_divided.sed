# the gradient is multiplied by --clip instead of by its fraction
/^double train_step(/,/^}/ s~s->clip / \*norm~s->clip~
