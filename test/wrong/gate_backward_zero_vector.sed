# a zero vector gets an infinite gradient
/^void gate_backward_add(/,/^}/ s~directions ? dc / ~1 || directions ? dc / ~
