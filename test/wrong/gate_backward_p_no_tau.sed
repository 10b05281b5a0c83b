# sigmoid(cosine) instead of sigmoid(tau cosine)
/^void gate_backward_add(/,/^}/ s~sigmoid(tau \* cosine\[ie\])~sigmoid(cosine[ie])~
