# the balance loss uses the size of the pool instead of the active experts
/^void softmax_losses(/,/^}/ s~(active / per \* used / N)~(E / (double)per * used / N)~
