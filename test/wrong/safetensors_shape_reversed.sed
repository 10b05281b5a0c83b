# the dimensions are written in reversed order
/^void safetensors_save(/,/^}/ s~tensors\[i\]\.shape\[d\]~tensors[i].shape[tensors[i].ndim - 1 - d]~
