# masks that were read do not reach the device
/^void device_copy(/,/^}/ s~if (to_gpu) { to_device(d->layer\[l\]\.mask~if (0) { to_device(d->layer[l].mask~
