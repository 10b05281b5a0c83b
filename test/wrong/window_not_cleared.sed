# a window begins with the records of the one before
/^double train_step(/,/^}/ s~gpt2_clear_records(model);~~
