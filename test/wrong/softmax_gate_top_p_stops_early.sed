# top-p stops before the expert that reaches P
/^void softmax_gate_forward(/,/^}/ s~(k\[i\] == 0 || taken < P)~(k[i] == 0 || taken + 0.1f < P)~
