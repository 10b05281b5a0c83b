# --overfit does nothing
/^double train_step(/,/^}/ s~s->overfit ? &first : ~~
