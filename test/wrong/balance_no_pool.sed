# the factor E is missing
/^float balance_loss(/,/^}/ s~(float)(E \* sum)~(float)sum~
