# --resume writes a new log instead of adding to the old one
/^int main(/,/^}/ s~\*s\.resume != '\\0'~0~
