# changes a2.q6
# Straight-through goes one step further: the derivative of both sigmoids is taken as 1, too; the factor tau stays.
/^void gate_backward_add(/,/^}/ s~derivative of sign is taken as 1; relu~derivative of sign, and that of both sigmoids, is taken as 1; relu~
/^void gate_backward_add(/,/^}/ s~tau \* dgate\[ie\] \* p \* (1\.0f - p); ~tau * dgate[ie];               ~
/^void gate_backward_add(/,/^}/ s~tau \* q \* (1\.0f - q) \* (float)sum_da~tau * (float)sum_da~
/^void gate_backward_add(/,/^}/ { /float [pq] = sigmoid/d; }
