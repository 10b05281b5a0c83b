# experts read the first rows instead of their own
/^void experts_forward(/,/^}/ s~xr + r \* C, fcw~xr, fcw~
