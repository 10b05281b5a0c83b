# records stay on the device when a file is written
/^void device_copy(/,/^}/ s~sums); } else { to_host~sums); } else if (0) { to_host~
