# the cost of a token counts all experts of the pool
/^Cost cost_at(/,/^}/ s~moe \* (c->E - k) \* expert~0.0 * moe * (c->E - k) * expert~
