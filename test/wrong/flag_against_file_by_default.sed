# a default that says otherwise than the model file counts as a flag
/^void flag_agrees(/,/^}/ s~!g->given || ~~
