# gradients of every expert's LayerNorm go to expert 0
/^void experts_layernorm_backward_add(/,/^}/ s~dlnw + eC, dlnb + eC~dlnw, dlnb + eC~
