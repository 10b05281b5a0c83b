# 1/|W| is missing
/^float diversity_loss(/,/^}/ s~dv / wnorm\[i\])~dv)~
