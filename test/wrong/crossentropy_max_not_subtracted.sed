# the maximum is not subtracted: large logits overflow
/^void crossentropy_forward(/,/^}/ s~max = z\[v\] > max ? z\[v\] : max~max = 0.0f~
