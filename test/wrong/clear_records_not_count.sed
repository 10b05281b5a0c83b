# R_E of the last window stays
/^void gpt2_clear_records(/,/^}/ s~memset(a->record_count, 0, sizeof a->record_count);~~
