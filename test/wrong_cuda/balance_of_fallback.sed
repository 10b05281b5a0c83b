# balance counts the weights that the fallback gave
/^void route_losses(/,/^}/ s~(sums\[e\] - (a->count\[e\] - a->used\[e\]))~(sums[e])~
