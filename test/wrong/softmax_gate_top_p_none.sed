# top-p with P = 0 takes no expert
/^void softmax_gate_forward(/,/^}/ s~(k\[i\] == 0 || taken < P)~taken < P~
