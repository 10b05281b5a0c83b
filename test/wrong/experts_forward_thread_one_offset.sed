# when each expert is one thread's, all compute the rows of expert 0
/^void experts_forward(/,/^}/ s~offset + e, 1~offset, 1~
