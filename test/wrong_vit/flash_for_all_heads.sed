# flash attention for heads of any size
/^void vit_plan(/,/^}/ s~ && config\.C == TILE \* config\.NH~~
