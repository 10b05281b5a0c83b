# the norm of the gradient is left squared
/^double gpt2_grad_norm(/,/^}/ s~return sqrt(total)~return total~
