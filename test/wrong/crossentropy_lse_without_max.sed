# the maximum is subtracted but never added back
/^void crossentropy_forward(/,/^}/ s~max + logf(sum)~logf(sum)~
