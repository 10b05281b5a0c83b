# sigmoid(G) instead of sigmoid(tau G)
/^void gate_backward_add(/,/^}/ s~q = sigmoid(tau \* G\[e\])~q = sigmoid(G[e])~
