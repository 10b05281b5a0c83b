# validation runs in training mode
/^float evaluate(/,/^}/ s~gpt2_forward(model, x, y, b, T, 0)~gpt2_forward(model, x, y, b, T, 1)~
