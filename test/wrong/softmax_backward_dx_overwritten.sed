# the gradient of x overwrites that which came through the experts
/^void softmax_gate_backward_add(/,/^}/ s~N, C, E, 1\.0f~N, C, E, 0.0f~
