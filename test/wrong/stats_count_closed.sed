# all tokens count for every expert
/^void route_stats(/,/^}/ s~count\[e\] += open\[(size_t)i \* E + e\]~count[e] += open[(size_t)i * E + e] >= 0~
