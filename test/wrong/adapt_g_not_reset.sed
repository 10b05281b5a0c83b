# the new expert keeps the threshold of the one before
/^int adapt_update(/,/^}/ s~G\[slot\] = 0\.0f;~~
