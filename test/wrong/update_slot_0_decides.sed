# the mask of expert 0 decides for all slots
/^void gpt2_update(/,/^}/ s~\.mask\[e\]~.mask[0]~
