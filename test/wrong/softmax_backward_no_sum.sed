# through the softmax without the sum that its normalisation takes away
/^void softmax_gate_backward_add(/,/^}/ s~(d\[e\] - sum)~d[e]~
