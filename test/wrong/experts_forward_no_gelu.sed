# the second product reads what was there before the GELU
/^void experts_forward(/,/^}/ s~act + r \* H, fcprojw~pre + r * H, fcprojw~
