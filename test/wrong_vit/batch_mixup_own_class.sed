# mixup with another picture, but its own class
/^void training_batch(/,/^}/ s~items\[b\]\.y\[1\] = items\[B - 1 - b\]\.y\[0\]~items[b].y[1] = items[b].y[0]~
