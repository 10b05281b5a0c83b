# no expert ever comes
/^int adapt_update(/,/^}/ s~want = unrouted > 0 &&~want = unrouted < 0 \&\&~
