# a token gets the gradient of its last row only; sums in combine_forward are lost too
/^void combine_forward(/,/^}/ s~+= w \* out~= w * out~
