# the gradient of W overwrites that of the batches before
/^void gate_backward_add(/,/^}/ s~E, C, N, 1\.0f~E, C, N, 0.0f~
