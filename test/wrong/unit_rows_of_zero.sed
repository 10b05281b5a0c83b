# a row of zeros is divided by its length
/^void unit_rows(/,/^}/ s~ || norm <= NORM_EPS~~
