# GPT-2's heads have 32 channels
/^void config_published(/,/^}/ s~c->C / 64 : heads~c->C / 32 : heads~
