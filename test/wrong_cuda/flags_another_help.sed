# a help text that is not that of the C program
/^#define FLAGS(/,/^$/ s~"AdamW's beta 1"~"AdamW's first beta"~
