# GPT-2's published qkv bias is not found under its name
/^const SafeTensor\* weights_find(/,/^}/ s~"attn\.c_attn\.bias"~"attn.c_proj.bias"~
