# changes a3.q1
# R_S adds up unit vectors x/|x| of the tokens with k = 0, not the raw x: a long vector counts no more than a short one.
/^void record_forward(/,/^}/ s~the raw x of tokens~x/|x| of tokens~
/^void record_forward(/,/^}/ s~sum\[c\] += x\[(size_t)i \* C + c\];~sum[c] += x[(size_t)i * C + c] / norm_of(x + (size_t)i * C, C);~
