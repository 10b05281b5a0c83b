# the sum is not divided out
/^void softmax_row(/,/^}/ s~row\[j\] / sum~row[j]~
