# the data are not aligned
/^void safetensors_save(/,/^}/ s~length % 8 != 0~length % 1 != 0~
