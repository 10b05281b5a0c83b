# R_E says whether the last token used the expert
/^void record_forward(/,/^}/ s~count\[e\] += open~count[e] = open~
