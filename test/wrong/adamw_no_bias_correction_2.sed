# the second moment is not corrected for its start at zero
/^void adamw(/,/^}/ s~v\[i\] / correction2~v[i]~
