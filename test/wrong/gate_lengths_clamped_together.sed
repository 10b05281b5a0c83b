# the product of the lengths is raised to NORM_EPS, not each length: short vectors lose their direction
/^int gate_forward(/,/^}/ s~fmaxf(xnorm\[i\], NORM_EPS) \* fmaxf(wnorm\[e\], NORM_EPS)~fmaxf(xnorm[i] * wnorm[e], NORM_EPS)~
