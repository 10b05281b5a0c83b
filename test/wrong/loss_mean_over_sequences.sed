# the loss is divided by B instead of by B*T
/^float gpt2_forward(/,/^}/ s~sum / N~sum / B~
