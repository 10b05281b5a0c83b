# the experts of a token are added, not averaged
/^__global__ void gate_forward_kernel(/,/^}/ s~(float)(opened > 0 ? opened : 1)~1.0f~
