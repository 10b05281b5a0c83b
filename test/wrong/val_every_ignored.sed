# --val-every does nothing
/^void train(/,/^}/ s~s->val_every > 0 && p~0 \&\& p~
