# the norm of the gradient is that of the last tensor
/^double gpt2_grad_norm(/,/^}/ s~total += sums\[i\]~total = sums[i]~
