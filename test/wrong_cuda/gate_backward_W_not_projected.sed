# the part of dW along W_e is kept
/^__global__ void gate_backward_G_kernel(/,/^}/ s~along = (float)sums\[E + e\]~along = 0.0f~
