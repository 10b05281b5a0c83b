# flash attention in fp32
/^void gpt2_plan(/,/^}/ s~flash && is_bf16 &&~flash \&\&~
