# the mean is subtracted from closed gates as well
/^void mean_backward(/,/^}/ s~open\[(size_t)i \* E + e\] ? mean : 0\.0f~(1 || open[i]) * mean~
