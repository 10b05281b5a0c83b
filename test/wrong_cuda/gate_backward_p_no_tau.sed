# sigmoid(cosine) instead of sigmoid(tau cosine)
/^__global__ void gate_backward_scores_kernel(/,/^}/ s~sigmoid(tau \* cosine\[ie\])~sigmoid(cosine[ie])~
