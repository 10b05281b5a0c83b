# --dry-run goes on to train
/^int main(/,/^}/ s~print_time(&model, &s); return 0;~print_time(\&model, \&s);~
