# the rows of an expert are in reversed token order
/^int dispatch(/,/^}/ s~int i = 0; i < N; i++~int i = N - 1; i >= 0; i--~
