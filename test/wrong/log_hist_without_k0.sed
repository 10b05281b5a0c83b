# the histogram in the log has no place for k = E
/^void log_routing(/,/^}/ s~"hist", E + 1,~"hist", E,~
