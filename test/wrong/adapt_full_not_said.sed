# a full pool looks like no need
/^int adapt_update(/,/^}/ s~slot = ADD_FULL~slot = ADD_NONE~
