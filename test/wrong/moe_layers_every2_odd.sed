# every2 means layers 1, 3, 5
/^int config_moe_layers(/,/^}/ s~l % 2 == 0~l % 2 == 1~
