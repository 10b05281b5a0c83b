# the vocabulary is not padded to 128
/^Config config_make(/,/^}/ s~(V + 127) / 128 \* 128~V~
