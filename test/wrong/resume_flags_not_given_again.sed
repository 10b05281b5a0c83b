# a flag given with --resume does not win over that of the run
/^Settings flags_read(/,/^}/ s~    flags_parse(&s, argc, argv, 0);~    flags_parse(\&s, *s.resume ? 1 : argc, argv, 0);~
