# a zero vector is divided by its length
/^int gate_forward(/,/^}/ s~fmaxf(xnorm\[i\], NORM_EPS)~xnorm[i]~
