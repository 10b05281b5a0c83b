# gradients shorter than --clip are lengthened
/^double train_step(/,/^}/ s~s->clip > 0\.0f && \*norm > s->clip~s->clip > 0.0f~
