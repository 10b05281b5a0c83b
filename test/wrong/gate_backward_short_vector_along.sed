# a vector that is too short to have a direction still gives its partner the part of the gradient along it
/^void gate_backward_add(/,/^}/ s~directions ? dc \* cosine\[ie\] : 0\.0f~dc * cosine[ie]~
