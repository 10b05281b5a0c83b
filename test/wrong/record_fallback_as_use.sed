# the fallback counts as use of an expert
/^void record_forward(/,/^}/ s~k\[i\] > 0 && e < E~e < E~
