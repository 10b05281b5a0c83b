# an upcycled layer has no active expert
/^void weights_load(/,/^}/ s~mask\[e\] = e < start_experts~mask[e] = 0 * start_experts~
