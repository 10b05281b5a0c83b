# the minimum is checked against the number before any went
/^int adapt_update(/,/^}/ s~active--;~~
