# dwpe of earlier micro-batches is lost
/^__global__ void embedding_backward_wpe_kernel(/,/^}/ s~sum = dwpe\[j\]~sum = 0.0f~
