# the CLS token gets no gradient
/^__global__ void tokens_backward_kernel(/,/^}/ s~dcls\[j\] += sum~dcls[j] += 0.0f * sum~
