# the header of a .bin file is read as tokens
/^void data_add(/,/^}/ s~s\.bytes += 1024;~~
