# the slot of an expert that goes cannot be used in the same update
/^int adapt_update(/,/^}/ s~if (!mask\[e\]) { slot = e; }~if (!mask[e] \&\& !removed[e]) { slot = e; }~
