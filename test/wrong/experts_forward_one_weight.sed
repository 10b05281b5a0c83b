# all experts use the first weight of expert 0
/^void experts_forward(/,/^}/ s~xr + r \* C, fcw + e \* HC~xr + r * C, fcw~
