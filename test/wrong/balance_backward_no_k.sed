# 1/k is missing
/^float balance_loss(/,/^}/ s~(n1 \* k\[i\])~n1~
