# --depth does not change the learning rate
/^Settings flags_read(/,/^}/ s~1e-3 \* sqrt(2\.0 / s\.depth)~1e-3~
