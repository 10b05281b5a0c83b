# --save-every does nothing
/^void train(/,/^}/ s~s->save_every > 0 && p~0 \&\& p~
