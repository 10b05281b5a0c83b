# each expert scales by the weight of expert 0
/^void experts_layernorm_forward(/,/^}/ s~lnw + (size_t)e \* C~lnw~
