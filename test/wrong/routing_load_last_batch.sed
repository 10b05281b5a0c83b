# the load is that of the last batch
/^void routing_add(/,/^}/ s~r\[l\]\.load\[e\] += ~r[l].load[e] = ~
