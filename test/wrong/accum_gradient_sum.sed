# the gradients of accumulated batches are summed, not averaged
/^double train_step(/,/^}/ s~gpt2_backward(model, 1\.0f / (float)s->accum)~gpt2_backward(model, 1.0f)~
