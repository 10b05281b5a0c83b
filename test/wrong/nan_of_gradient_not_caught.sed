# training goes on with a gradient that is not finite
/^double gpt2_grad_norm(/,/^}/ s~isfinite(sums\[i\])~1~
