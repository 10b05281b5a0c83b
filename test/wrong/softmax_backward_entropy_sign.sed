# the entropy is raised instead of lowered
/^void softmax_gate_backward_add(/,/^}/ s~- (p\[e\] > 0\.0f ? entropy~+ (p[e] > 0.0f ? entropy~
