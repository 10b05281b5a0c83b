# a token of zeros divides by 0
/^__global__ void gate_backward_scores_kernel(/,/^}/ s~directions ? dc / (xnorm\[i\] \* wnorm\[e\]) : 0\.0f~dc / (xnorm[i] * wnorm[e]); (void)directions~
