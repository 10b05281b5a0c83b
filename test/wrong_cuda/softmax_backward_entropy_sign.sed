# the entropy is pushed the wrong way
/^__global__ void softmax_gate_scores_kernel(/,/^}/ s~- (p\[e\] > 0\.0f~+ (p[e] > 0.0f~
