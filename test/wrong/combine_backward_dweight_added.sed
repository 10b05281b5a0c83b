# the gradient of a weight is added to what was there
/^void combine_backward(/,/^}/ s~E + e\] = dot~E + e] += dot~
