# each expert adds the bias of expert 0
/^void experts_layernorm_forward(/,/^}/ s~lnb + (size_t)e \* C~lnb~
