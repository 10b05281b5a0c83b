# nothing decays
/^void adamw(/,/^}/ s~ + decay \* p\[i\]~~
