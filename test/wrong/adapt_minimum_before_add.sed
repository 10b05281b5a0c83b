# the minimum does not count the expert that comes
/^int adapt_update(/,/^}/ s~active - 1 + want >=~active - 1 >=~
