# everything decays
/^void device_update(/,/^}/ s~t->decay ? weight_decay : 0\.0f~weight_decay~
