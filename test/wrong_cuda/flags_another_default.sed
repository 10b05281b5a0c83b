# a default that is not that of the C program
/^#define FLAGS(/,/^$/ s~"-as", "0\.8"~"-as", "0.9"~
