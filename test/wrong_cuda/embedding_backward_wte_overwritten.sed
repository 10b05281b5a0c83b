# what the head added to dwte is lost
/^__global__ void embedding_backward_wte_kernel(/,/^}/ s~sum = out\[c\]~sum = 0.0f~
