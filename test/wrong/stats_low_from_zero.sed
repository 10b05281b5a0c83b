# the smallest score is never above 0
/^void route_stats(/,/^}/ s~low\[e\] = FLT_MAX~low[e] = 0.0f~
