# a router other than that of the model file is taken for the same
/^void flag_agrees(/,/^}/ s~!strcmp(g->now, text)~1~
