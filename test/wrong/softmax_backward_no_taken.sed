# the renormalisation of top-k forgets 1/taken
/^void softmax_gate_backward_add(/,/^}/ s~(d\[e\] - along) / taken~(d[e] - along)~
