# plans are the same if M, N and K are
/^Plan\* plan_for(/,/^}/ s~sizeof plans\[i\]\.key~3 * sizeof(int)~
