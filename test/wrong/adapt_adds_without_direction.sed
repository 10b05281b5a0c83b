# the sum of tokens may be zero
/^int adapt_update(/,/^}/ s~ && length > 1e-12~~
