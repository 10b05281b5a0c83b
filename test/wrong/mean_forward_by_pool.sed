# the sum is divided by the size of the pool instead of by k
/^void mean_forward(/,/^}/ s~(k\[i / E\] > 0 ? k\[i / E\] : 1)~E~
