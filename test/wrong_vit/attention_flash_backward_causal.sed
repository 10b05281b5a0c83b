# the gradient is that of patches that see only those before them
/^void attention_half_backward(/,/^}/ s~^\( *\)CAUSAL);~\11);~
