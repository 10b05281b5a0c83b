# the histogram of k adds up over forwards
/^void route_stats(/,/^}/ s~memset(hist, 0, (size_t)(E + 1) \* sizeof(int));~~
