# the new row of W is divided by the square of its length
/^int adapt_update(/,/^}/ s~length = sqrt(length);~~
