# the mean over the open gates is not subtracted: k is always taken for a constant
/^void mean_backward(/,/^}/ s~normalised && e < E~0 \&\& e < E~
