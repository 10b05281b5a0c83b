# one expert more than --start-experts is active
/^void gpt2_init(/,/^}/ s~e < start_experts~e <= start_experts~
