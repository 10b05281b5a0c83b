# all tensors are said to begin at 0
/^void safetensors_save(/,/^}/ s~offset += tensors\[i\]\.bytes;~~
