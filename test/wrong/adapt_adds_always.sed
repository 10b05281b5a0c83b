# an expert comes without any token that needs it, in direction NaN
/^int adapt_update(/,/^}/ s~want = unrouted > 0 && length > 1e-12~want = unrouted >= 0~
