# the same when each expert is one thread's
/^void experts_forward(/,/^}/ s~fcprojb + (size_t)e \* C,$~fcprojb,~
