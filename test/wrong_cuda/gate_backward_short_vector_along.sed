# a vector that is too short to have a direction still gives its partner the part of the gradient along it
/^__global__ void gate_backward_scores_kernel(/,/^}/ s~directions ? (double)(dc \* cosine\[ie\]) : 0\.0~(double)(dc * cosine[ie])~
