# --init forgets which experts were active
/^void weights_load(/,/^}/ s~c->moe\[l\] && mask != NULL~0 \&\& mask != NULL~
