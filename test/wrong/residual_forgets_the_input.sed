# the feed-forward half adds the input of the block, so that the attention half is lost
/^void feedforward_half_forward(/,/^}/ s~residual_forward(next, next, a->mid~residual_forward(next, next, a->res~
