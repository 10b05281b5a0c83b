# validation windows overlap
/^float evaluate(/,/^}/ s~data_places(data, T, T), L~data_places(data, T, 1), L~
