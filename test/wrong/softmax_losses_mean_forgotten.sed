# the balance loss forgets the mean over tokens
/^void softmax_losses(/,/^}/ s~share\[e\] \* mean / N~share[e] * mean~
