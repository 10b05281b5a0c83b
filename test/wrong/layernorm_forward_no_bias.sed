# the bias is forgotten
/^void layernorm_forward(/,/^}/ s~ + bias\[c\]~~
