# a free slot's LayerNorm is updated
/^Floor step_floor(/,/^}/ s~ + 2\.0 \* c->residual~~
