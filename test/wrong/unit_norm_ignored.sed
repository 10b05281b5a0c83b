# --unit-norm does nothing
/^double train_step(/,/^}/ s~if (s->unit_norm)~if (0)~
