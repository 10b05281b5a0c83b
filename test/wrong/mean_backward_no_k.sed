# 1/k is missing
/^void mean_backward(/,/^}/ s~1\.0f / (float)(k\[i\] > 0 ? k\[i\] : 1)~1.0f~
