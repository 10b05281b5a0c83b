# dq of the full attention where it is causal
/^void flash_backward(/,/^}/ s~flash_dq_kernel<true>~flash_dq_kernel<false>~
