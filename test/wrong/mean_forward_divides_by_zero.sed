# a token without experts divides by k = 0
/^void mean_forward(/,/^}/ s~(k\[i / E\] > 0 ? k\[i / E\] : 1)~k[i / E]~
