# the end of the last expert is not written
/^int dispatch(/,/^}/ s~offset\[E\] = R;~~
