# the target gets -1 instead of -scale
/^void crossentropy_backward(/,/^}/ s~z\[targets\[i\]\] -= scale~z[targets[i]] -= 1.0f~
