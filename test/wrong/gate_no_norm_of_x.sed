# the score is divided by |W| only
/^int gate_forward(/,/^}/ s~fmaxf(xnorm\[i\], NORM_EPS) \* ~~
