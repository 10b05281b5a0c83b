# the smallest score is that of the last batch
/^void routing_add(/,/^}/ s~first ? a->low\[e\] :~1 ? a->low[e] :~
