# the mean of squares is taken for the variance
/^void layernorm_forward(/,/^}/ s~var += (x\[c\] - m) \* (x\[c\] - m)~var += x[c] * x[c]~
