# only the first layer
/^void device_unit_rows(/,/^}/ s~l < model->config\.L~l < 1~
