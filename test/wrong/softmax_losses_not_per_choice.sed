# the balance loss of top-k is not divided by K
/^void softmax_losses(/,/^}/ s~active / per \* used~active * used~
