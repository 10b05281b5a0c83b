# inactive experts count as well
/^float diversity_loss(/,/^}/ s~mask\[i\] && mask\[j\] && ~~
