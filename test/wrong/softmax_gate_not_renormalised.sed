# the weights of top-k do not add up to 1
/^void softmax_gate_forward(/,/^}/ s~renormalise && e < E~0 \&\& e < E~
