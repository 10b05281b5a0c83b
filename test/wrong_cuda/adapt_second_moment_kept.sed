# only the first moment is reset
/^void reset_slot_moments(/,/^}/ s~CUDA(cudaMemset(v + t->offset + slot \* n, 0, n \* sizeof(float)));~~
