# the log gives the smallest score twice
/^void log_routing(/,/^}/ s~NULL, 1\.0, r\[l\]\.high~NULL, 1.0, r[l].low~
