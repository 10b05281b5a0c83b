# --min-experts is not passed on
/^void window_ends(/,/^}/ s~s->min_experts~0~
