# the targets are the inputs
/^void data_read(/,/^}/ s~if (t > 0) { y\[t - 1\] = token; }~if (t < T) { y[t] = token; }~
