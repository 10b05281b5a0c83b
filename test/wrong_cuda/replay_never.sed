# graphs are never captured
/^void replay(/,/^}/ s~r->calls++ == 0~r->calls++ >= 0~
