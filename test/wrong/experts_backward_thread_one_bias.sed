# the same when each expert is one thread's
/^void experts_backward(/,/^}/ s~dfcb + (size_t)e \* H, dfcprojw~dfcb, dfcprojw~
