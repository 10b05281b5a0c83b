# the part along W stays in its gradient: the norm is taken for a constant
/^void gate_backward_add(/,/^}/ s~(float)sum_dc_c \* W~0.0f * W~
