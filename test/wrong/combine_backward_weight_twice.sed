# the gradient of a weight is multiplied by that weight
/^void combine_backward(/,/^}/ s~dot += d\[c\] \* out~dot += w * d[c] * out~
