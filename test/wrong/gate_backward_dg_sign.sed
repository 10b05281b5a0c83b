# thresholds learn in the wrong direction
/^void gate_backward_add(/,/^}/ s~dG\[e\] -= ~dG[e] += ~
