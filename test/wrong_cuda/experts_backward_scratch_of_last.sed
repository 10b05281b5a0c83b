# the scratch of a queue is as large as the last expert needs
/^void experts_backward(/,/^}/ s~count\[e\] > most ? count\[e\] : most~count[e]~
