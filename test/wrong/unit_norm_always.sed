# --unit-norm 0 does nothing
/^double train_step(/,/^}/ s~if (s->unit_norm)~if (1)~
