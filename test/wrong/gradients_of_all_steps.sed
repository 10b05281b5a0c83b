# gradients are never set to zero
/^double train_step(/,/^}/ s~gpt2_zero_grad(model);~~
