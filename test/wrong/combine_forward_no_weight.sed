# the rows are summed without their weights
/^void combine_forward(/,/^}/ s~+= w \* out~+= out~
