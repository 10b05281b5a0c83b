# the new threshold stays on the host
/^void device_gate(/,/^}/ s~        to_device(d->master_p\.h\[l\]\.gateG, G, E \* sizeof(float));~~
