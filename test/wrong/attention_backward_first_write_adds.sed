# the gradients of keys and values are added to those of the last step
/^void attention_backward(/,/^}/ s~t0 == last ? 0\.0f : 1\.0f~1.0f~
