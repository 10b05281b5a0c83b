# a vector shorter than NORM_EPS has cosine 0 at once
/^int gate_forward(/,/^}/ s~cosine\[ie\] /= fmaxf(xnorm\[i\], NORM_EPS) \* fmaxf(wnorm\[e\], NORM_EPS)~cosine[ie] = xnorm[i] < NORM_EPS || wnorm[e] < NORM_EPS ? 0.0f : cosine[ie] / (xnorm[i] * wnorm[e])~
