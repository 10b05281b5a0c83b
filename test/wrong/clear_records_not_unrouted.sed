# the number of unrouted tokens of the last window stays
/^void gpt2_clear_records(/,/^}/ s~a->record_unrouted = 0;~~
