# R_S adds up all tokens
/^void record_forward(/,/^}/ s~if (k\[i\] == 0) {~if (k[i] >= 0) {~
