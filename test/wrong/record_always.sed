# records grow outside of windows
/^void moe_forward(/,/^}/ s~training && model->recording~training~
