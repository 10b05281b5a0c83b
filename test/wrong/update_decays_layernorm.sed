# the weights of the second layernorm decay
/^    X(ln2w, / s~ONES,       0~ONES,       1~
