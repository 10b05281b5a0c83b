# rows get the gradient of y without their weight
/^void combine_backward(/,/^}/ s~w \* d\[c\]~d[c]~
