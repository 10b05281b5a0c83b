# an expert that one token used goes as well
/^int adapt_update(/,/^}/ s~count\[e\] == 0~count[e] <= 1~
