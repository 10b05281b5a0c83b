# variance without taking the mean away
/^void pictures_norm(/,/^}/ s~ - mean \* mean~~
