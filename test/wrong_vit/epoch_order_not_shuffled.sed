# pictures in the order of the file
/^void epoch_order(/,/^}/ s~order\[j\] = t;~order[j] = order[j];~
