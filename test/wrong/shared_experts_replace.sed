# the shared experts replace the routed ones instead of adding to them
/^void moe_forward(/,/^}/ s~residual_forward(y, y, a->sout~residual_forward(y, a->sout, a->sout~
