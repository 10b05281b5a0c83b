# rows go back without their LayerNorm
/^void moe_backward(/,/^}/ s~c->residual ? draw : drow~drow~
