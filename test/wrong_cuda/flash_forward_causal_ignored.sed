# the full attention where a token must not see the next
/^void flash_forward(/,/^}/ s~flash_forward_kernel<true>~flash_forward_kernel<false>~
