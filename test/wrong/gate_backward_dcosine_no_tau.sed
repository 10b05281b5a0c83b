# the gradient of the cosine forgets the factor tau
/^void gate_backward_add(/,/^}/ s~dc = tau \* dgate~dc = dgate~
