# the part along W is divided by |W| once instead of twice
/^void gate_backward_add(/,/^}/ s~(wnorm\[e\] \* wnorm\[e\])~wnorm[e]~
