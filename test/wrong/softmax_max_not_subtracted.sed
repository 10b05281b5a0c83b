# the maximum is not subtracted: large scores overflow
/^void softmax_row(/,/^}/ s~exp_fast(row\[j\] - max)~exp_fast(row[j])~
