# the residual stream loses the gradient of gate and experts
/^void feedforward_half_backward(/,/^}/ s~residual_forward(d->dres, d->dres, d->dln, (size_t)N \* C)~residual_forward(d->dln, d->dres, d->dln, (size_t)N * C)~
