# the part along x stays in its gradient: the norm is taken for a constant
/^void gate_backward_add(/,/^}/ s~dx\[(size_t)i \* C + c\] -= sum~dx[(size_t)i * C + c] -= 0.0f * sum~
