# the scratch of a lane is as large as the last expert needs
/^void experts_backward(/,/^}/ s~count\[e\] > most ? count\[e\] : most~count[e]~
