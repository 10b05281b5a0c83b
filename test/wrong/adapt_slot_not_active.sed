# the new expert is never switched on
/^int adapt_update(/,/^}/ s~mask\[slot\] = 1;~~
