# what the fallback served counts as use
/^void moe_forward(/,/^}/ s~+= a->used\[e\]~+= a->count[e]~
