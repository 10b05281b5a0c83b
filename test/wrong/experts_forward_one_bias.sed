# all experts use the second bias of expert 0
/^void experts_forward(/,/^}/ s~fcprojb + (size_t)e \* C, n~fcprojb, n~
