# a last, smaller batch counts as much as a whole one
/^float evaluate(/,/^}/ s~\* b \* T;~* B * T;~
