# tokens with k = 0 count in the means
/^float balance_loss(/,/^}/ s~n1 += k\[i\] > 0~n1 += 1~
