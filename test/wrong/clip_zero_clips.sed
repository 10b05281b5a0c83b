# --clip 0 stops training instead of switching clipping off
/^double train_step(/,/^}/ s~s->clip > 0\.0f && \*norm > s->clip~*norm > s->clip~
