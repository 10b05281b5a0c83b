# sums of slabs run on lane 0
/^void add_slabs(/,/^}/ s~lane->stream~lanes->stream~
