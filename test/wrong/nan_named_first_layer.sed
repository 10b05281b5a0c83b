# the layer in which a NaN was born is always layer 0
/^void gpt2_stop_not_finite(/,/^}/ s~after ? l - 1 : l)~after ? l - 1 : 0)~
