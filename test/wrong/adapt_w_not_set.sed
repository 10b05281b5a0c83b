# the new expert keeps the direction of the one before
/^int adapt_update(/,/^}/ s~W\[(size_t)slot \* C + c\] = (float)(sum\[c\] / length)~(void)W[slot + c]~
