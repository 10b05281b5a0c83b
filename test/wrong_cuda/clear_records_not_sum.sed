# the sum of one window is part of the next
/^void device_clear_records(/,/^}/ s~    CUDA(cudaMemset(~    if (l < 0) CUDA(cudaMemset(~
