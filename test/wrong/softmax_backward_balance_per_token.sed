# the gradient of the balance loss forgets 1/N
/^void softmax_gate_backward_add(/,/^}/ s~balance \* share\[e\] / (float)N~balance * share[e]~
