# a resume uses the default flags instead of those of the run
/^Settings flags_read(/,/^}/ s~strcmp(flag_table\[i\]\.field, "resume") != 0~0~
