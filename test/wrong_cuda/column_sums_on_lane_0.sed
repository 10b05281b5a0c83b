# sums of columns run on lane 0
/^void column_sums_add(/,/^}/ s~lane->stream~lanes->stream~
