# the norm of the first 4096 numbers of a tensor
/^double device_grad_norm(/,/^}/ s~b < blocks; b++~b < 1; b++~
