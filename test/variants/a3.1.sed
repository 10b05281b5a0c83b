# changes a3.q2 a3.q4 a3.q7
# An expert goes if at most one token of the window used it, not only if none did.
/^int adapt_update(/,/^}/ s~Remove first, then add at most one:~Remove first (experts that at most one token used), then add at most one:~
/^int adapt_update(/,/^}/ s~mask\[e\] && count\[e\] == 0~mask[e] \&\& count[e] <= 1~
