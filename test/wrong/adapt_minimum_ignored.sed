# a layer may lose all experts
/^int adapt_update(/,/^}/ s~ && active - 1 + want >= min_experts~~
