# the mean is subtracted with --kgrad detached too
/^void mean_backward(/,/^}/ s~normalised && e < E~e < E~
