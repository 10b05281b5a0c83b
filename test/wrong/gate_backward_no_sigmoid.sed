# the derivative of the sigmoid is left out
/^void gate_backward_add(/,/^}/ s~dgate\[ie\] \* p \* (1\.0f - p)~dgate[ie]~
