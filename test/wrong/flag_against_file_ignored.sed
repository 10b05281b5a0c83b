# a flag that says otherwise than the model file is ignored
/^void flag_agrees(/,/^}/ s~!g->given ||~1 ||~
