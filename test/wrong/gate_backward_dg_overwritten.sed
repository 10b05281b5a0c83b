# the gradient of G overwrites that of the batches before
/^void gate_backward_add(/,/^}/ s~dG\[e\] -= ~dG[e] = -~
