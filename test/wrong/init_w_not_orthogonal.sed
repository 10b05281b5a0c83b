# the rows of W are of length 1 but not orthogonal
/^void orthogonal_rows(/,/^}/ s~-= dot \* w\[j \* C + c\]~-= 0.0 * dot * w[j * C + c]~
