# R_S of the last window stays
/^void gpt2_clear_records(/,/^}/ s~memset(a->record_sum, 0, (size_t)model->config\.C \* sizeof(double));~~
