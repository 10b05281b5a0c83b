# the gradient of G forgets the factor tau
/^void gate_backward_add(/,/^}/ s~dG\[e\] -= tau \* q~dG[e] -= q~
