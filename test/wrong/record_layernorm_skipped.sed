# R_S adds up the output of the layer instead of its input
/^void moe_forward(/,/^}/ s~a->open, a->k, x, N, C, E~a->open, a->k, y, N, C, E~
