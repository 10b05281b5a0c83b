# the simplicity loss pulls at rows of inactive experts
/^float simplicity_loss(/,/^}/ s~mask\[e\] && wnorm\[e\] > NORM_EPS && c < C~wnorm[e] > NORM_EPS \&\& c < C~
