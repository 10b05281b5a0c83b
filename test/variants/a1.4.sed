# changes a1.q2
# The weight of an open expert is 1/sqrt(k), not 1/k.
/^void mean_forward(/,/^}/ s~= open / k: every chosen expert counts the same~= open / sqrt(k), not divided by k~
/^void mean_forward(/,/^}/ s~(float)(k\[i / E\] > 0 ? k\[i / E\] : 1)~sqrtf((float)(k[i / E] > 0 ? k[i / E] : 1))~
