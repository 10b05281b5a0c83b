# the softmax is divided out once more
/^void softmax_gate_forward(/,/^}/ s~w\[best\] = p\[best\]~w[best] = p[best] / sum~
