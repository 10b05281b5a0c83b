# flash attention for heads of any size
/^void gpt2_plan(/,/^}/ s~ && config\.C == TILE \* config\.NH~~
