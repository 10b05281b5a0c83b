# experts always start equal
/^void tensor_init(/,/^}/ s~copies ? t->size / t->slots : t->size~t->size / t->slots~
