# one expert more than K
/^void softmax_gate_forward(/,/^}/ s~k\[i\] < K &&~k[i] <= K \&\&~
