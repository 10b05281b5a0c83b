# closed gates are pushed as well
/^float efficiency_loss(/,/^}/ s~open\[(size_t)i \* E + e\] ? weight~1 || open[i] ? weight~
