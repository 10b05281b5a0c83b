# validation reads the first windows again and again
/^float evaluate(/,/^}/ s~w + (size_t)i, T, x~(size_t)i, T, x~
