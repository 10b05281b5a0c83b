# G is overwritten by the first values of the run
/^void device_gate(/,/^}/ s~    to_host(G, d->master_p\.h\[l\]\.gateG, E \* sizeof(float));~~
