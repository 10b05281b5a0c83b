# --threshold does nothing
/^void tensor_init(/,/^}/ s~t->first == THRESHOLD ? threshold~t->first == THRESHOLD ? 0.0f~
