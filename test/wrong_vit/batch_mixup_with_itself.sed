# mixup with the same picture
/^void training_batch(/,/^}/ s~items\[B - 1 - b\]\.view\[0\]~items[b].view[0]~
