# the renormalisation of top-k is taken for a constant
/^void softmax_gate_backward_add(/,/^}/ s~(d\[e\] - along) / taken~d[e] / taken~
