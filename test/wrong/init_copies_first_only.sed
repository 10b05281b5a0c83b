# --expert-init copies leaves all experts but the first at zero
/^void tensor_init(/,/^}/ s~p\[j\] = p\[j - drawn\]~p[j] = 0.0f~
