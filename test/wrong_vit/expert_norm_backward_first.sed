# each expert's rows go back through the LayerNorm of expert 0
/^void experts_layernorm_backward_add(/,/^}/ s~rstd + r, lnw + eC~rstd + r, lnw~
