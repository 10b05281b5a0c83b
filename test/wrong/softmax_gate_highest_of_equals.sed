# of equal experts the highest number comes first
/^void softmax_gate_forward(/,/^}/ s~p\[e\] > p\[best\]~p[e] >= p[best]~
