# the score is divided by |x| only
/^int gate_forward(/,/^}/ s~ \* fmaxf(wnorm\[e\], NORM_EPS)~~
