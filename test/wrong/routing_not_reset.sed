# routing on the progress line is that of the whole run
/^void train(/,/^}/ s~memset(r, 0, L \* sizeof(Routing));~~
